/**
 * What is asked: conversations of one or more turns, each with its lengths, priority and prompt. Pure data from a seed; knows nothing of HTTP
 * nor of when anything is sent.
 */
import { LoadError } from './errors.ts';
import { drawLengths, type LengthMix, SMALLEST_TOTAL } from './lengths.ts';
import { SeededRandom } from './random.ts';

/** `made`: so many tokens of our own making. `text`: a text from a dataset. */
export type PromptSpec =
  | { readonly kind: 'made'; readonly tokens: number }
  | { readonly kind: 'text'; readonly text: string };

export interface PlannedTurn {
  /** Place among all turns of the workload, from 0. */
  readonly index: number;
  /** What this turn adds to the conversation. */
  readonly prompt: PromptSpec;
  /** Null leaves the length to the model (and the server's default limit). */
  readonly outputTokens: number | null;
}

export interface Conversation {
  readonly index: number;
  /** Which of the shared prefixes it begins with; null for none. */
  readonly prefix: number | null;
  /** Request class to ask for; null to say nothing. */
  readonly priority: string | null;
  readonly turns: readonly PlannedTurn[];
}

/** A conversation of a dataset: what the user says, turn by turn, and how long the recorded answers are. */
export interface DatasetItem {
  readonly turns: readonly { readonly text: string; readonly outputTokens: number | null }[];
}

export interface WorkloadOptions {
  readonly seed: number;
  /** Requests in all; a conversation of several turns makes several. */
  readonly numRequests: number;
  readonly turns: number;
  /** Of each prompt's tokens, how many are the same in every conversation. */
  readonly sharedPrefixTokens: number;
  /** How many different shared prefixes there are. */
  readonly numPrefixes: number;
  /** Share of each class; empty for requests that name none. */
  readonly priorities: Readonly<Record<string, number>>;
  readonly source:
    | { readonly kind: 'lengths'; readonly mix: LengthMix }
    | { readonly kind: 'dataset'; readonly items: readonly DatasetItem[] };
}

/** @throws {LoadError} if the options contradict each other */
export function planWorkload(options: WorkloadOptions): Conversation[] {
  checkOptions(options);
  const { seed, numRequests, numPrefixes, sharedPrefixTokens } = options;
  const random = new SeededRandom(seed, 'lengths');
  const classes = new SeededRandom(seed, 'priorities');
  const prefixes = new SeededRandom(seed, 'prefixes');
  const items = options.source.kind === 'dataset' ? shuffled(options.source.items, seed) : [];
  const conversations: Conversation[] = [];
  let planned = 0;
  while (planned < numRequests) {
    const index = conversations.length;
    const drawn = drawTurns(options, items, index, random).slice(0, numRequests - planned);
    const turns = drawn.map((turn) => ({ ...turn, index: planned++ }));
    const prefix = sharedPrefixTokens > 0 ? prefixes.integer(0, numPrefixes - 1) : null;
    conversations.push({ index, prefix, priority: drawClass(options.priorities, classes), turns });
  }
  return conversations;
}

function checkOptions({ source, sharedPrefixTokens, priorities }: WorkloadOptions): void {
  if (source.kind === 'dataset') {
    if (source.items.length === 0) throw new LoadError('the dataset holds no usable conversation');
  } else if (source.mix.kind === 'sharegpt' && source.mix.maxTotalTokens < SMALLEST_TOTAL) {
    throw new LoadError(
      `prompt and answer of at most ${source.mix.maxTotalTokens} tokens: expected at least ${SMALLEST_TOTAL} for ShareGPT-like lengths; fixed lengths may be shorter`,
    );
  } else if (source.mix.kind === 'fixed' && sharedPrefixTokens >= source.mix.inputTokens) {
    throw new LoadError(
      `${sharedPrefixTokens} shared prefix tokens: expected fewer than the prompt's ${source.mix.inputTokens}`,
    );
  }
  const total = Object.values(priorities).reduce((sum, share) => sum + share, 0);
  if (Object.keys(priorities).length > 0 && !(total > 0)) {
    throw new LoadError('the shares of the priorities add up to 0, expected more');
  }
}

function drawTurns(
  { source, turns, sharedPrefixTokens }: WorkloadOptions,
  items: readonly DatasetItem[],
  index: number,
  random: SeededRandom,
): Omit<PlannedTurn, 'index'>[] {
  if (source.kind === 'dataset') {
    const item = items[index % items.length]!;
    return item.turns.slice(0, turns).map(({ text, outputTokens }) => ({
      prompt: { kind: 'text', text },
      outputTokens,
    }));
  }
  return Array.from({ length: turns }, (_, turn) => {
    const { inputTokens, outputTokens } = drawLengths(source.mix, random);
    // The shared prefix is a part of the first prompt; at least one token is the conversation's own.
    const own = turn === 0 ? Math.max(1, inputTokens - sharedPrefixTokens) : inputTokens;
    return { prompt: { kind: 'made', tokens: own }, outputTokens };
  });
}

function drawClass(
  priorities: Readonly<Record<string, number>>,
  random: SeededRandom,
): string | null {
  const entries = Object.entries(priorities);
  const total = entries.reduce((sum, [, share]) => sum + share, 0);
  let rest = random.unit() * total;
  for (const [name, share] of entries) {
    rest -= share;
    if (rest < 0) return name;
  }
  return entries.at(-1)?.[0] ?? null;
}

function shuffled<T>(items: readonly T[], seed: number): T[] {
  const random = new SeededRandom(seed, 'shuffle');
  const list = [...items];
  for (let i = list.length - 1; i > 0; i--) {
    const j = random.integer(0, i);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}
