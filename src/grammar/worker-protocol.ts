/** What passes between a grammar worker and its host. Masks and the words below lie in shared memory, the rest goes by messages. */
import type { GrammarSpec } from './grammar-spec.ts';
import type { GrammarVocabulary } from './vocabulary.ts';

/** Words of the control block. */
export const CONTROL = {
  /** Messages sent to the worker: it sleeps on this. */
  posted: 0,
  /** Number of the last job done: the host sleeps on this. */
  done: 1,
  /** Session whose turn it is, for the case that its grammar takes too long. */
  current: 2,
  /** Answer of a job. */
  result: 3,
} as const;
export const CONTROL_WORDS = 4;

/** Answers of jobs that went wrong; the session at fault is `current`. */
export const JOB_FAILED = -1;

export interface GrammarWorkerData {
  readonly vocabulary: GrammarVocabulary;
  /** i32 `[CONTROL_WORDS]` */
  readonly control: Int32Array;
  /** Bit i of a row: token i may come next. i32 `[numRows, maskWords]` */
  readonly masks: Int32Array;
}

export type HostMessage =
  | { readonly type: 'open'; readonly sessionId: number; readonly spec: GrammarSpec }
  | { readonly type: 'close'; readonly sessionId: number }
  /**
   * Fills masks: per row `[sessionId, row, numTokens, numDrafts, tokens..., drafts...]`. Takes in the tokens, fills `row` with what may follow
   * them, and the rows after it with what may follow each draft, up to the first that may not.
   */
  | { readonly type: 'fill'; readonly job: number; readonly rows: Int32Array }
  /** The same without masks, for one session: the answer is how many drafts may come. */
  | { readonly type: 'check'; readonly job: number; readonly rows: Int32Array };

export type WorkerMessage =
  /** The vocabulary is read. */
  | { readonly type: 'ready' }
  | { readonly type: 'opened'; readonly sessionId: number }
  /** The worker is of no use any more. */
  | { readonly type: 'refused'; readonly sessionId: number; readonly reason: string };
