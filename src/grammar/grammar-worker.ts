/**
 * The thread that compiles grammars and says which tokens may come. It sleeps in `Atomics.wait` and takes its messages without an event loop,
 * so that its host can wait for it in the middle of a step. Started by `grammar-host.ts`.
 */
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import type { GrammarMatcher } from '@mlc-ai/web-xgrammar';
import { CompileError, MatcherFactory } from './compiler.ts';
import { SpaceGuard } from './space-guard.ts';
import { maskWords } from './vocabulary.ts';
import {
  CONTROL,
  type GrammarWorkerData,
  type HostMessage,
  JOB_FAILED,
  type WorkerMessage,
} from './worker-protocol.ts';

interface OpenText {
  readonly matcher: GrammarMatcher;
  /** Where only some white space is welcome. */
  readonly isGuarded: boolean;
  /** Bytes of it that the text ends with. */
  numSpaces: number;
}

class GrammarWorker {
  readonly #port: MessagePort;
  readonly #control: Int32Array;
  readonly #masks: Int32Array;
  readonly #words: number;
  readonly #factory: MatcherFactory;
  readonly #guard: SpaceGuard;
  readonly #texts = new Map<number, OpenText>();

  constructor(port: MessagePort, data: GrammarWorkerData, factory: MatcherFactory) {
    this.#port = port;
    this.#control = data.control;
    this.#masks = data.masks;
    this.#words = maskWords(data.vocabulary.vocabSize);
    this.#factory = factory;
    this.#guard = new SpaceGuard(data.vocabulary);
  }

  async run(): Promise<never> {
    for (;;) {
      const posted = Atomics.load(this.#control, CONTROL.posted);
      const received = receiveMessageOnPort(this.#port);
      if (received === undefined) Atomics.wait(this.#control, CONTROL.posted, posted);
      else await this.#receive(received.message as HostMessage);
    }
  }

  async #receive(message: HostMessage): Promise<void> {
    switch (message.type) {
      case 'open':
        return await this.#open(message);
      case 'close':
        this.#texts.get(message.sessionId)?.matcher.dispose();
        this.#texts.delete(message.sessionId);
        return;
      case 'fill':
      case 'check':
        return await this.#job(message);
      default:
        message satisfies never;
    }
  }

  async #open({ sessionId, spec }: HostMessage & { type: 'open' }): Promise<void> {
    Atomics.store(this.#control, CONTROL.current, sessionId);
    try {
      const matcher = await this.#factory.open(spec);
      const isGuarded = spec.type === 'json_object' || spec.type === 'json_schema';
      this.#texts.set(sessionId, { matcher, isGuarded, numSpaces: 0 });
      this.#tell({ type: 'opened', sessionId });
    } catch (error) {
      const isCompileError = error instanceof CompileError;
      const reason = isCompileError ? error.message : String((error as Error)?.stack ?? error);
      this.#tell({ type: 'refused', sessionId, reason });
    }
  }

  #tell(message: WorkerMessage): void {
    this.#port.postMessage(message);
  }

  async #job({ type, job, rows }: HostMessage & { type: 'fill' | 'check' }): Promise<void> {
    let result = 0;
    try {
      for (let at = 0; at < rows.length; ) {
        const [sessionId, row, numTokens, numDrafts] = rows.subarray(at, at + 4);
        const tokensEnd = at + 4 + numTokens!;
        Atomics.store(this.#control, CONTROL.current, sessionId!);
        const text = this.#texts.get(sessionId!);
        if (text === undefined) throw new Error('the session is not open');
        for (const token of rows.subarray(at + 4, tokensEnd)) {
          if (!text.matcher.acceptToken(token)) throw new Error(`token ${token} is refused`);
          text.numSpaces = this.#guard.after(token, text.numSpaces);
        }
        at = tokensEnd + numDrafts!;
        const drafts = rows.subarray(tokensEnd, at);
        result = await this.#walk(text, drafts, type === 'fill' ? row! : null);
      }
    } catch {
      result = JOB_FAILED;
    }
    Atomics.store(this.#control, CONTROL.result, result);
    Atomics.store(this.#control, CONTROL.done, job);
    Atomics.notify(this.#control, CONTROL.done);
  }

  /**
   * Goes along the drafts and back.
   *
   * @param row where the first mask goes; `null` for nowhere
   * @returns how many drafts may come
   */
  async #walk(text: OpenText, drafts: Int32Array, row: number | null): Promise<number> {
    const { matcher, isGuarded } = text;
    let { numSpaces } = text;
    let numAccepted = 0;
    for (;;) {
      // A matcher that has taken an end of text must not be asked.
      const mask = matcher.isTerminated() ? null : await matcher.getNextTokenBitmask();
      if (mask !== null && isGuarded) this.#guard.apply(mask, numSpaces);
      if (row !== null) this.#store(mask, row + numAccepted);
      const draft = drafts[numAccepted];
      // What has no text must not even be offered.
      if (mask === null || draft === undefined || !isSet(mask, draft)) break;
      if (!matcher.acceptToken(draft)) break;
      numSpaces = this.#guard.after(draft, numSpaces);
      numAccepted++;
    }
    if (numAccepted > 0) matcher.rollBack(numAccepted);
    return numAccepted;
  }

  #store(mask: Int32Array | null, row: number): void {
    const start = row * this.#words;
    if (mask === null) this.#masks.fill(0, start, start + this.#words);
    else this.#masks.set(mask.subarray(0, this.#words), start);
  }
}

function isSet(mask: Int32Array, token: number): boolean {
  return ((mask[token >> 5]! >>> (token & 31)) & 1) === 1;
}

if (parentPort !== null) {
  const data = workerData as GrammarWorkerData;
  const factory = await MatcherFactory.create(data.vocabulary);
  parentPort.postMessage({ type: 'ready' } satisfies WorkerMessage);
  await new GrammarWorker(parentPort, data, factory).run();
}
