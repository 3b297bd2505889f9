/**
 * The arrays of a step in native memory, where kernels read them: the batch that the engine fills, and the attention tiles that follow from it.
 */

import type { StepInput } from '../compiler/plan.ts';
import { TILE_ENTRY } from '../kernels/tile-entry.ts';
import { allocate, f32, i32, type NativeRegion } from '../platform/native-memory.ts';
import type { RunnerLimits, StepBatch } from '../targets/model-runner.ts';
import { maxSeals, OpenGroups } from '../targets/open-groups.ts';
import { validateStepBatch } from '../targets/step-batch.ts';
import { type AttentionTileLimits, AttentionTiles, maxTileEntries } from './attention-tiles.ts';

export class StepInputs implements Disposable {
  readonly batch: StepBatch;
  readonly #limits: RunnerLimits;
  /** Tiles of the current batch, after `tiles.make`. */
  readonly tiles: AttentionTiles;
  /** Of formats that have them; made before the tiles. */
  readonly openGroups: OpenGroups | null;
  readonly #region: NativeRegion;
  readonly #addresses: Record<StepInput, bigint>;

  constructor(limits: RunnerLimits, tileLimits: Omit<AttentionTileLimits, 'openGroups'>) {
    this.#limits = limits;
    const { maxTokens, maxSeqs, maxModelLen, blockSize } = limits;
    const maxBlocksPerSeq = Math.ceil(maxModelLen / blockSize);
    const entries = maxTileEntries(tileLimits, limits);
    const lengths: Record<StepInput, number> = {
      tokenIds: maxTokens,
      positions: maxTokens,
      slotMapping: maxTokens,
      queryStarts: maxSeqs + 1,
      contextLens: maxSeqs,
      blockTables: maxSeqs * maxBlocksPerSeq,
      logitRows: maxTokens,
      inverseTemperatures: limits.maxLogitRows,
      tiles: (TILE_ENTRY.bytes / 4) * entries.tiles,
      merges: (TILE_ENTRY.bytes / 4) * entries.merges,
      openSlots: maxTokens,
      seals: 2 * maxSeals(limits),
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
    this.openGroups = limits.hasOpenBlocks ? new OpenGroups(limits, all) : null;
    this.tiles = new AttentionTiles({ ...tileLimits, openGroups: this.openGroups }, all);
    this.batch = {
      numTokens: 0,
      numSeqs: 0,
      numLogitRows: 0,
      numHiddenRows: 0,
      tokenIds: all.tokenIds,
      positions: all.positions,
      slotMapping: all.slotMapping,
      queryStarts: all.queryStarts,
      contextLens: all.contextLens,
      blockTables: all.blockTables,
      maxBlocksPerSeq,
      sequenceSlots: new Int32Array(maxSeqs),
      logitRows: all.logitRows,
      inverseTemperatures: f32(addresses.inverseTemperatures!, limits.maxLogitRows).fill(1),
    };
  }

  address(input: StepInput): bigint {
    return this.#addresses[input];
  }

  /**
   * Checks the batch, since kernels trust every index in it, and makes what follows from it.
   * @throws {StepError}
   */
  prepare(): void {
    validateStepBatch(this.batch, this.#limits);
    this.openGroups?.make(this.batch);
    this.tiles.make(this.batch);
  }

  [Symbol.dispose](): void {
    this.#region.free();
  }
}
