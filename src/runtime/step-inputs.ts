/**
 * The arrays of a step in native memory, where kernels read them: the batch that the engine fills, and the attention tiles that follow from it.
 */
import type { StepInput } from '../compiler/plan.ts';
import { allocate, i32, type NativeRegion } from '../platform/native-memory.ts';
import type { RunnerLimits, StepBatch } from '../targets/model-runner.ts';
import { validateStepBatch } from '../targets/step-batch.ts';

/** i32 values of one tile: sequence, first token of the step, number of tokens, unused. */
const TILE_FIELDS = 4;

export class StepInputs implements Disposable {
  readonly batch: StepBatch;
  readonly #limits: RunnerLimits;
  readonly #tileTokens: number;
  readonly #tiles: Int32Array;
  readonly #region: NativeRegion;
  readonly #addresses: Record<StepInput, bigint>;
  /** Tiles of the current batch. */
  numTiles = 0;

  constructor(limits: RunnerLimits, tileTokens: number) {
    this.#limits = limits;
    this.#tileTokens = tileTokens;
    const { maxTokens, maxSeqs, maxLogitRows, maxModelLen, blockSize } = limits;
    const maxBlocksPerSeq = Math.ceil(maxModelLen / blockSize);
    const lengths: Record<StepInput, number> = {
      tokenIds: maxTokens,
      positions: maxTokens,
      slotMapping: maxTokens,
      queryStarts: maxSeqs + 1,
      contextLens: maxSeqs,
      blockTables: maxSeqs * maxBlocksPerSeq,
      logitRows: maxLogitRows,
      tiles: TILE_FIELDS * (Math.ceil(maxTokens / tileTokens) + maxSeqs),
    };
    const names = Object.keys(lengths) as StepInput[];
    const padded = (name: StepInput): number => Math.ceil((4 * lengths[name]) / 64) * 64;
    this.#region = allocate(names.reduce((sum, name) => sum + padded(name), 64));
    let address = this.#region.address;
    const addresses: Partial<Record<StepInput, bigint>> = {};
    const arrays: Partial<Record<StepInput, Int32Array>> = {};
    for (const name of names) {
      addresses[name] = address;
      arrays[name] = i32(address, lengths[name]);
      address += BigInt(padded(name));
    }
    this.#addresses = addresses as Record<StepInput, bigint>;
    const all = arrays as Record<StepInput, Int32Array>;
    this.#tiles = all.tiles;
    this.batch = {
      numTokens: 0,
      numSeqs: 0,
      numLogitRows: 0,
      tokenIds: all.tokenIds,
      positions: all.positions,
      slotMapping: all.slotMapping,
      queryStarts: all.queryStarts,
      contextLens: all.contextLens,
      blockTables: all.blockTables,
      maxBlocksPerSeq,
      logitRows: all.logitRows,
    };
  }

  address(input: StepInput): bigint {
    return this.#addresses[input];
  }

  /**
   * Checks the batch: kernels trust every index in it (DESIGN decision 9).
   * @throws {StepError}
   */
  check(): void {
    validateStepBatch(this.batch, this.#limits);
  }

  /** Cuts the queries of each sequence into attention tiles, the longest contexts first so that threads end together. */
  makeTiles(): void {
    const { numSeqs, queryStarts } = this.batch;
    let n = 0;
    for (let s = 0; s < numSeqs; s++) {
      const end = queryStarts[s + 1]!;
      // Later queries see more: take them first.
      const begin = queryStarts[s]!;
      const count = Math.ceil((end - begin) / this.#tileTokens);
      for (let tile = count - 1; tile >= 0; tile--) {
        const first = begin + tile * this.#tileTokens;
        const at = TILE_FIELDS * n++;
        this.#tiles[at] = s;
        this.#tiles[at + 1] = first;
        this.#tiles[at + 2] = Math.min(this.#tileTokens, end - first);
      }
    }
    this.numTiles = n;
  }

  [Symbol.dispose](): void {
    this.#region.free();
  }
}
