/** A plan as text and as a summary object: what `hasten explain` shows below the graphs. */
import type { VectorMachine } from '../kernels/kernel-ir.ts';
import { matmulTile } from '../kernels/matmul.ts';
import { matmulQ8Tile } from '../kernels/matmul-q8.ts';
import { matvecF32Groups } from '../kernels/matvec-f32.ts';
import { packedBitsPerWeight, ROW_GROUP } from '../kernels/packed-format.ts';
import type { KernelSpec } from './kernel-spec.ts';
import type { ChunkRule, Command, Plan } from './plan.ts';

const MIB = 2 ** 20;

export interface PlanSummary {
  readonly precision: string;
  readonly limits: Plan['limits'];
  readonly kernels: readonly {
    readonly name: string;
    readonly tile: string;
    readonly uses: number;
  }[];
  readonly commands: number;
  readonly arenaBytes: number;
  /** What the activations would take with a buffer each. */
  readonly unsharedBytes: number;
  readonly weightBytes: number;
  /** Weight bytes that a step of one token reads. */
  readonly bytesPerToken: number;
  readonly kvType: string;
  readonly kvBytesPerToken: number;
}

export function summarizePlan(plan: Plan, machine: VectorMachine): PlanSummary {
  const uses = new Map<number, number>();
  for (const { variants } of plan.commands) {
    for (const { kernel } of variants) uses.set(kernel, (uses.get(kernel) ?? 0) + 1);
  }
  const { numLayers, keyBlockBytes, valueBlockBytes, blockSize } = plan.kvCache;
  return {
    precision: plan.precision,
    limits: plan.limits,
    kernels: plan.kernels.map((spec, i) => ({
      name: kernelName(spec),
      tile: tileOf(spec, machine),
      uses: uses.get(i) ?? 0,
    })),
    commands: plan.commands.length,
    arenaBytes: plan.arenaBytes,
    unsharedBytes: plan.buffers.reduce((sum, b) => sum + b.sizeBytes, 0),
    weightBytes: plan.weightBytes,
    bytesPerToken: plan.commands.reduce((sum, c) => sum + c.weightBytes, 0),
    kvType: plan.kvCache.kvType,
    kvBytesPerToken: (numLayers * (keyBlockBytes + valueBlockBytes)) / blockSize,
  };
}

function kernelName(spec: KernelSpec): string {
  const shape = Object.entries(spec.shape).map(([key, value]) => {
    if (value !== null && typeof value === 'object') {
      return `${key}=${'name' in value ? value.name : JSON.stringify(value)}`;
    }
    return `${key}=${value}`;
  });
  return `${spec.family}(${shape.join(' ')})`;
}

/** The register tile, for kernels that have one. */
function tileOf(spec: KernelSpec, machine: VectorMachine): string {
  if (spec.family === 'matmul') {
    const tile = matmulTile(machine, spec.shape);
    return `${tile.unitRows} weight rows x ${tile.columns} tokens${tile.sumsInMemory ? ', sums in L1' : ''}`;
  }
  if (spec.family === 'matmulQ8')
    return `${ROW_GROUP} weight rows x ${matmulQ8Tile(machine).maxRows} tokens`;
  if (spec.family === 'matvec') return `${ROW_GROUP} weight rows x 1 token`;
  if (spec.family === 'matvecF32')
    return `${ROW_GROUP * matvecF32Groups(machine, spec.shape.format)} weight rows x 1 token`;
  if (spec.family === 'pagedAttention')
    return `${spec.shape.queryTokens} query tokens x heads of a KV head`;
  return `${machine.lanes} lanes`;
}

function chunksText(rule: ChunkRule): string {
  if (rule.kind === 'fixed') return `${rule.count} chunks`;
  if (rule.kind === 'tiles') return `tiles x ${rule.perTile}`;
  if (rule.kind === 'merges') return `split tiles x ${rule.perMerge}`;
  if (rule.kind === 'seals') return `full groups x ${rule.perSeal}`;
  const groups = rule.rowsPerChunk === 1 ? rule.rows : `${rule.rows}/${rule.rowsPerChunk}`;
  return rule.perGroup === 1 ? groups : `${groups} x ${rule.perGroup}`;
}

function rowsText({ minRows, maxRows }: Command['variants'][number]): string {
  if (maxRows === Number.MAX_SAFE_INTEGER) return minRows <= 1 ? 'any' : `${minRows}+`;
  return minRows === maxRows || minRows === 0 ? `${maxRows}` : `${minRows}-${maxRows}`;
}

const mib = (bytes: number): string => `${(bytes / MIB).toFixed(2)} MiB`;

/** Lines of text: summary, kernels, commands, buffers, weights. */
export function printPlan(plan: Plan, machine: VectorMachine): string {
  const summary = summarizePlan(plan, machine);
  const lines: string[] = [];
  const { limits } = plan;
  lines.push(
    `precision ${plan.precision}, ${limits.numThreads} threads, steps of up to ${limits.maxTokens} tokens of ${limits.maxSeqs} sequences, context ${limits.maxModelLen}`,
    `weights ${mib(summary.weightBytes)}, ${mib(summary.bytesPerToken)} read per decoded token; KV cache ${summary.kvBytesPerToken} bytes per token (${plan.kvCache.kvType})`,
    `activations ${mib(summary.arenaBytes)} in one arena, ${mib(summary.unsharedBytes)} if each had its own memory`,
    '',
    `Kernels (${plan.kernels.length})`,
    ...summary.kernels.map(
      (k, i) => `  k${String(i).padEnd(3)} x${String(k.uses).padEnd(4)} ${k.name}  [${k.tile}]`,
    ),
    '',
    `Commands (${plan.commands.length}); variants as rows: kernel, chunks`,
    ...plan.commands.map((command, i) => {
      const variants = command.variants.map(
        (v) => `${rowsText(v)}: k${v.kernel}, ${chunksText(v.chunks)}`,
      );
      const bytes = command.weightBytes > 0 ? `  ${mib(command.weightBytes)}` : '';
      return `  ${String(i).padStart(4)} ${command.label} (${command.op}, ${command.rows})${bytes}  ${variants.join('; ')}`;
    }),
    '',
    `Buffers (${plan.buffers.length}): offset, bytes, row bytes, commands`,
    ...plan.buffers.map(
      (b) =>
        `  ${String(b.offsetBytes).padStart(10)} ${String(b.sizeBytes).padStart(10)} ${String(b.strideBytes).padStart(7)}  ${b.firstCommand}-${b.lastCommand}  ${b.label} [${b.rows}]`,
    ),
    '',
    `Weights (${plan.weights.length}): offset, bytes`,
    ...plan.weights.map((w) => {
      const names = w.ref.parts.map((part) => part.tensor).join(' + ');
      const what =
        w.kind === 'matrix'
          ? `${w.dtype} as ${w.format.name} (${packedBitsPerWeight(w.format)} bits), ${w.rows} x ${w.columns}`
          : `${w.kind === 'vector' ? 'f32' : 'i32'} [${w.rows}]`;
      return `  ${String(w.offsetBytes).padStart(10)} ${String(w.sizeBytes).padStart(10)}  ${what}  ${names}`;
    }),
  );
  return lines.join('\n');
}
