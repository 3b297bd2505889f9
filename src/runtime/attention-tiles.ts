/**
 * Which queries attention works on together, and which of their contexts are split: the lists `tiles` and `merges` of a step (kernels/attention-spans.ts).
 *
 * How a context is cut changes no bit of the result, so this may follow the number of threads and whatever else is in the batch. Knows sequences by their
 * lengths only.
 */
import { SPAN_TOKENS, TILE_ENTRY } from '../kernels/tile-entry.ts';
import type { StepBatch } from '../targets/model-runner.ts';
import type { OpenGroups } from '../targets/open-groups.ts';

export interface AttentionTileLimits {
  /** Most query tokens of a tile. */
  readonly tileTokens: number;
  /** States of a token over a span that there is memory for; below 2 no context is split. */
  readonly maxParts: number;
  /** Chunks per tile. */
  readonly numKvHeads: number;
  readonly numThreads: number;
  /** Of formats that have them: tiles then end where groups do, which `tileTokens` divides. */
  readonly openGroups: OpenGroups | null;
}

const FIELDS = TILE_ENTRY.bytes / 4;
/** A tile is split if one of its chunks would be more than this part of a thread's share of the step. */
const MAX_SHARE = 1 / 8;

/** Entries that the lists need room for. */
export function maxTileEntries(
  { tileTokens, maxParts }: Pick<AttentionTileLimits, 'tileTokens' | 'maxParts'>,
  { maxTokens, maxSeqs }: { readonly maxTokens: number; readonly maxSeqs: number },
): { tiles: number; merges: number } {
  // The first and the last tile of a sequence may have few tokens.
  return { tiles: Math.ceil(maxTokens / tileTokens) + 2 * maxSeqs + maxParts, merges: maxParts };
}

export class AttentionTiles {
  numTiles = 0;
  numMerges = 0;
  readonly #limits: AttentionTileLimits;
  readonly #tiles: Int32Array;
  readonly #merges: Int32Array;

  /** @param lists i32 `[maxTileEntries, 8]` each, filled by `make` */
  constructor(
    limits: AttentionTileLimits,
    lists: { readonly tiles: Int32Array; readonly merges: Int32Array },
  ) {
    this.#limits = limits;
    this.#tiles = lists.tiles;
    this.#merges = lists.merges;
  }

  make(batch: StepBatch): void {
    const { tileTokens, maxParts, openGroups } = this.#limits;
    const { numSeqs, queryStarts, contextLens } = batch;
    const mostWhole = maxParts >= 2 ? this.#mostWhole(batch) : Number.POSITIVE_INFINITY;
    this.numTiles = 0;
    this.numMerges = 0;
    let numParts = 0;
    for (let s = 0; s < numSeqs; s++) {
      const begin = queryStarts[s]!;
      const end = queryStarts[s + 1]!;
      const beforeStep = contextLens[s]! - end;
      const offset = openGroups === null ? 0 : (beforeStep + begin) % tileTokens;
      const count = begin === end ? 0 : Math.ceil((end - begin + offset) / tileTokens);
      // Later queries see more: they come first, so that threads end together.
      for (let tile = count - 1; tile >= 0; tile--) {
        const tileStart = begin - offset + tile * tileTokens;
        const first = Math.max(begin, tileStart);
        const numTokens = Math.min(tileStart + tileTokens, end) - first;
        const group = openGroups?.idOf(s, beforeStep + first) ?? 0;
        const numSpans = Math.ceil((beforeStep + first + numTokens) / SPAN_TOKENS);
        const newParts = numSpans * numTokens;
        if (numSpans < 2 || newParts <= mostWhole || numParts + newParts > maxParts) {
          setEntry(this.#tiles, this.numTiles++, s, first, numTokens, 0, numSpans, 0, 0, group);
          continue;
        }
        setEntry(this.#merges, this.numMerges++, s, first, numTokens, 0, numSpans, 0, numParts, 0);
        for (let span = 0; span < numSpans; span++) {
          const part = numParts + span * numTokens;
          setEntry(
            this.#tiles,
            this.numTiles++,
            s,
            first,
            numTokens,
            span,
            span + 1,
            1,
            part,
            group,
          );
        }
        numParts += newParts;
      }
    }
  }

  /** Tokens times spans that a tile may have and stay whole. */
  #mostWhole({ numSeqs, queryStarts, contextLens }: StepBatch): number {
    const { numKvHeads, numThreads } = this.#limits;
    let total = 0;
    for (let s = 0; s < numSeqs; s++) {
      const numTokens = queryStarts[s + 1]! - queryStarts[s]!;
      total += numTokens * Math.ceil((contextLens[s]! - numTokens / 2) / SPAN_TOKENS);
    }
    return ((total * numKvHeads) / numThreads) * MAX_SHARE;
  }
}

/** Fields in the order of TILE_ENTRY; by assignment, since this runs in every step and allocates nothing. */
function setEntry(
  list: Int32Array,
  index: number,
  sequence: number,
  firstToken: number,
  numTokens: number,
  firstSpan: number,
  endSpan: number,
  isPart: 0 | 1,
  firstPart: number,
  openGroup: number,
): void {
  const at = index * FIELDS;
  list[at] = sequence;
  list[at + 1] = firstToken;
  list[at + 2] = numTokens;
  list[at + 3] = firstSpan;
  list[at + 4] = endSpan;
  list[at + 5] = isPart;
  list[at + 6] = firstPart;
  list[at + 7] = openGroup;
}
