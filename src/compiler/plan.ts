/**
 * A plan: everything that was decided about how a model runs, as plain data. Decided once by plan-model.ts, carried out by the runtime, printed by
 * `hasten explain`; a test can read it without running anything. It holds no code and no addresses, so it can be written to a file.
 */

import type { RopeSpec, StepRows, WeightRef } from '../graph/ir.ts';
import type { KvType } from '../kernels/kv-layout.ts';
import type { PackedFormat } from '../kernels/packed-format.ts';
import type { KernelSpec } from './kernel-spec.ts';

/** How many rows a command works on. */
export type RowCount = StepRows;

/** Arrays of the step that kernels read by pointer. */
export type StepInput =
  | 'tokenIds'
  | 'positions'
  | 'slotMapping'
  | 'queryStarts'
  | 'contextLens'
  | 'blockTables'
  | 'logitRows'
  | 'inverseTemperatures'
  | 'tiles'
  | 'merges'
  | 'openSlots'
  | 'seals';

/** What stands in a field of a kernel's argument table. */
export type ParamSource =
  | { readonly kind: 'buffer'; readonly buffer: number; readonly offsetBytes: number }
  | { readonly kind: 'weight'; readonly weight: number }
  | { readonly kind: 'input'; readonly input: StepInput }
  | { readonly kind: 'cache'; readonly store: 'key' | 'value'; readonly layer: number }
  /** Open groups that sequences keep, of one layer. */
  | { readonly kind: 'ownGroups'; readonly layer: number }
  | { readonly kind: 'cosSin'; readonly table: number }
  | { readonly kind: 'value'; readonly value: number }
  /** The number of rows of the step. */
  | { readonly kind: 'rows'; readonly rows: RowCount };

/** How many chunks a command is cut into, given the numbers of the step. */
export type ChunkRule =
  /** Always `count`, or none if there are no rows. */
  | { readonly kind: 'fixed'; readonly rows: RowCount; readonly count: number }
  /** ceil(rows / rowsPerChunk) * perGroup */
  | {
      readonly kind: 'rows';
      readonly rows: RowCount;
      readonly rowsPerChunk: number;
      readonly perGroup: number;
    }
  /** Attention tiles of the step * perTile */
  | { readonly kind: 'tiles'; readonly perTile: number }
  /** Attention tiles whose context is split * perMerge */
  | { readonly kind: 'merges'; readonly perMerge: number }
  /** Open groups that the step fills * perSeal */
  | { readonly kind: 'seals'; readonly perSeal: number };

/** One way to carry out a command, for row counts in [minRows, maxRows]. */
export interface CommandVariant {
  readonly minRows: number;
  readonly maxRows: number;
  /** Index into `Plan.kernels`. */
  readonly kernel: number;
  readonly params: Readonly<Record<string, ParamSource>>;
  readonly chunks: ChunkRule;
}

/** One op of the lowered graph. Commands run one after another with a barrier between; the chunks of one run on all threads. */
export interface Command {
  /** Where it stands in the model, such as `layers.3.mlp.down_proj`. */
  readonly label: string;
  readonly op: string;
  readonly rows: RowCount;
  readonly variants: readonly CommandVariant[];
  /** Weight bytes read per step, whatever the number of rows (for reports). */
  readonly weightBytes: number;
  /** Multiply-adds per row (for reports). */
  readonly macsPerRow: number;
}

/** Activation memory at a fixed place of the arena. */
export interface PlannedBuffer {
  readonly label: string;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  /** Bytes of one row. */
  readonly strideBytes: number;
  /** A number: as many, whatever the step. */
  readonly rows: RowCount | number;
  /** First and last command that touch it. */
  readonly firstCommand: number;
  readonly lastCommand: number;
}

/** A weight in the layout that kernels read, at a fixed place of the weight image. */
export type PlannedWeight =
  | {
      readonly kind: 'matrix';
      readonly ref: WeightRef;
      readonly dtype: string;
      readonly format: PackedFormat;
      readonly rows: number;
      readonly columns: number;
      readonly offsetBytes: number;
      readonly sizeBytes: number;
    }
  | {
      /** f32, zero behind `rows` */
      readonly kind: 'vector';
      readonly ref: WeightRef;
      readonly rows: number;
      readonly offsetBytes: number;
      readonly sizeBytes: number;
    }
  | {
      /** i32 column indices, made of no stored rows */
      readonly kind: 'columns';
      readonly ref: WeightRef;
      readonly rows: number;
      readonly columns: readonly number[];
      readonly offsetBytes: number;
      readonly sizeBytes: number;
    };

export interface PlannedKvCache {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly kvType: KvType;
  readonly blockSize: number;
  /** Bytes of keys, and of values, of one block of one layer. */
  readonly keyBlockBytes: number;
  readonly valueBlockBytes: number;
  /** Open groups that sequences keep in each layer, and bytes of one; 0 for formats without. */
  readonly numOwnGroups: number;
  readonly openGroupBytes: number;
}

export interface PlanLimits {
  readonly maxTokens: number;
  readonly maxSeqs: number;
  readonly maxLogitRows: number;
  readonly maxModelLen: number;
  readonly numThreads: number;
}

export interface Plan {
  readonly limits: PlanLimits;
  readonly precision: 'fast' | 'f32';
  readonly kernels: readonly KernelSpec[];
  readonly commands: readonly Command[];
  readonly buffers: readonly PlannedBuffer[];
  readonly arenaBytes: number;
  readonly weights: readonly PlannedWeight[];
  readonly weightBytes: number;
  readonly kvCache: PlannedKvCache;
  /** Rotations whose cos and sin tables the commands read. */
  readonly ropes: readonly RopeSpec[];
  /** Query tokens of one attention tile. */
  readonly tileTokens: number;
  /** States of a query token over one span of its context that there is memory for. */
  readonly maxParts: number;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Final hidden states, f32 [R, hiddenSize]; whole until the next step. */
  readonly hidden: { readonly buffer: number };
  readonly logits: { readonly buffer: number };
  readonly sliceMax: { readonly buffer: number };
  readonly sliceExpSum: { readonly buffer: number };
  readonly sliceSize: number;
}
