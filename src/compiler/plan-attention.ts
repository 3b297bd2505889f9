/**
 * Attention and the KV cache: storing keys and values, sealing groups, tiles of queries, parts of split contexts. Keeps what the plan says of the cache
 * as a whole, which all layers share. Knows shapes and layouts; not sequences or block ids.
 */
import type { NodeWithOp, RopeSpec } from '../graph/ir.ts';
import { spanStateBytes } from '../kernels/attention-spans.ts';
import {
  hasOpenGroups,
  KV_GROUP_TOKENS,
  keyBlockBytes,
  kvBlockSize,
  valueBlockBytes,
} from '../kernels/kv-layout.ts';
import { openGroupBytes } from '../kernels/open-group.ts';
import { cosSinRowBytes } from '../kernels/rope-table.ts';
import { SPAN_TOKENS } from '../kernels/tile-entry.ts';
import { maxStepGroups, numOwnGroups } from '../targets/open-groups.ts';
import { PlanError } from './errors.ts';
import type { ChunkRule, Plan, PlanLimits, PlannedKvCache } from './plan.ts';
import type { Params, PlanBuilder } from './plan-builder.ts';

/** Rows of queries (tokens times heads that share a KV head) that attention works on at a time. */
const TARGET_TILE_ROWS = 18;
const MAX_TILE_TOKENS = 16;
/** The same where keys and values are taken apart once for a tile (kernels/unpack-kv.ts). Tiles do not cross groups, so tokens are a power of two. */
const TARGET_UNPACKED_ROWS = 32;
/** Memory for attention states of split contexts, unless one token over the longest context takes more. */
const MAX_PART_BYTES = 16 << 20;

/** The attention of all layers of one plan. */
export class AttentionPlanner {
  readonly #plan: PlanBuilder;
  readonly #ropes: RopeSpec[] = [];
  readonly #ropeIndices = new Map<string, number>();
  #kvCache: PlannedKvCache | null = null;
  /** Buffers of the open groups that a step begins and ends, by layer. */
  readonly #stepGroups = new Map<number, number>();
  #tileTokens = 1;
  #maxParts = 0;

  constructor(plan: PlanBuilder) {
    this.#plan = plan;
  }

  /**
   * What the plan says of attention as a whole.
   * @throws {PlanError} if the graph of this name had no attention
   */
  finish(graphName: string): Pick<Plan, 'kvCache' | 'ropes' | 'tileTokens' | 'maxParts'> {
    if (!this.#kvCache) throw new PlanError(`graph ${graphName} has no attention over a KV cache`);
    return {
      kvCache: this.#kvCache,
      ropes: this.#ropes,
      tileTokens: this.#tileTokens,
      maxParts: this.#maxParts,
    };
  }

  /** Rotates queries and keys, and stores keys and values. */
  ropeKvStore(node: NodeWithOp<'ropeKvStore'>): void {
    const { numHeads, numKvHeads, headDim, rope, layer } = node.attrs;
    const [q, k, v, positions] = node.inputs;
    this.#useKvCache(node.label, node.attrs);
    const { kvType } = this.#plan.options;
    const params: Params = {
      ...this.#plan.rowParams('T'),
      ...this.#plan.matrix('q', q!),
      ...this.#plan.matrix('k', k!),
      ...this.#plan.matrix('v', v!),
      positions: this.#plan.input(positions!),
      slotMapping: { kind: 'input', input: hasOpenGroups(kvType) ? 'openSlots' : 'slotMapping' },
      ...cacheParams(layer),
      ...this.#openGroupParams(node.label, node.attrs),
    };
    if (rope) {
      params.cosSin = { kind: 'cosSin', table: this.#rope(rope) };
      params.cosSinStride = { kind: 'value', value: cosSinRowBytes(rope) };
    }
    this.#plan.result(node);
    Object.assign(params, this.#plan.matrix('out', node));
    const shape = {
      numHeads,
      numKvHeads,
      headDim,
      rope: rope ? { style: rope.style, rotaryDim: rope.rotaryDim } : null,
      kvType,
    };
    this.#plan.command(node, 'T', [
      this.#plan.variant({ family: 'ropeKvStore', shape }, params, this.#plan.rowChunks('T')),
    ]);
    if (hasOpenGroups(kvType)) this.#sealKv(node);
  }

  /** Groups that the step fills become blocks, which later queries of the step read. */
  #sealKv(node: NodeWithOp<'ropeKvStore'>): void {
    const { numKvHeads, headDim, layer } = node.attrs;
    const params: Params = {
      seals: { kind: 'input', input: 'seals' },
      ...cacheParams(layer),
      ...this.#openGroupParams(node.label, node.attrs),
    };
    this.#plan.command({ label: `${node.label}.seal`, op: 'sealKv' }, 'T', [
      this.#plan.variant({ family: 'sealKv', shape: { numKvHeads, headDim } }, params, {
        kind: 'seals',
        perSeal: numKvHeads,
      }),
    ]);
  }

  /** Attention over the cache, and the merge of what tiles leave as parts where a context may have several spans. */
  attention(node: NodeWithOp<'pagedAttention'>): void {
    const { numHeads, numKvHeads, headDim, scale, mask, layer, output } = node.attrs;
    const groupHeads = numHeads / numKvHeads;
    const { kvType } = this.#plan.options;
    const tileTokens = hasOpenGroups(kvType)
      ? Math.min(KV_GROUP_TOKENS, 2 ** Math.floor(Math.log2(TARGET_UNPACKED_ROWS / groupHeads)))
      : Math.min(MAX_TILE_TOKENS, Math.floor(TARGET_TILE_ROWS / groupHeads));
    this.#tileTokens = Math.max(1, tileTokens);
    const partBytes = numHeads * spanStateBytes(headDim);
    this.#maxParts = maxParts(this.#plan.options.limits, this.#tileTokens, partBytes);
    const parts =
      this.#maxParts > 0
        ? this.#plan.newBuffer(`${node.label}.parts`, this.#maxParts, partBytes)
        : null;
    const shared: Params = {
      contextLens: { kind: 'input', input: 'contextLens' },
      queryStarts: { kind: 'input', input: 'queryStarts' },
      parts:
        parts === null
          ? { kind: 'value', value: 0 }
          : { kind: 'buffer', buffer: parts, offsetBytes: 0 },
    };
    const params: Params = {
      ...shared,
      ...this.#plan.matrix('q', node.inputs[0]!),
      ...cacheParams(layer),
      ...this.#openGroupParams(node.label, node.attrs),
      blockTables: { kind: 'input', input: 'blockTables' },
      maxBlocksPerSeq: {
        kind: 'value',
        value: Math.ceil(this.#plan.options.limits.maxModelLen / kvBlockSize(kvType)),
      },
      tiles: { kind: 'input', input: 'tiles' },
    };
    this.#plan.result(node);
    Object.assign(params, this.#plan.matrix('out', node));
    const merged = { numHeads, numKvHeads, headDim, window: mask.window, output, kvType };
    const shape = { ...merged, scale, queryTokens: this.#tileTokens };
    const chunks: ChunkRule = { kind: 'tiles', perTile: numKvHeads };
    this.#plan.command(node, 'T', [
      this.#plan.variant({ family: 'pagedAttention', shape }, params, chunks),
    ]);
    if (parts === null) return;
    this.#plan.touch(parts);
    this.#plan.command({ label: `${node.label}.merge`, op: 'mergeAttention' }, 'T', [
      this.#plan.variant(
        { family: 'mergeAttention', shape: merged },
        {
          ...shared,
          ...this.#plan.matrix('out', node),
          merges: { kind: 'input', input: 'merges' },
        },
        { kind: 'merges', perMerge: numKvHeads },
      ),
    ]);
  }

  /** Those of kernels/open-group.ts, of the next command; none for formats without open groups. Groups of the step live until attention has read them. */
  #openGroupParams(
    label: string,
    heads: { numKvHeads: number; headDim: number; layer: number },
  ): Params {
    const { kvType, limits } = this.#plan.options;
    if (!hasOpenGroups(kvType)) return {};
    const { layer } = heads;
    let buffer = this.#stepGroups.get(layer);
    if (buffer === undefined) {
      const count = Math.max(1, maxStepGroups(limits));
      buffer = this.#plan.newBuffer(`${label}.groups`, count, openGroupBytes(heads));
      this.#stepGroups.set(layer, buffer);
    }
    this.#plan.touch(buffer);
    return {
      ownGroups: { kind: 'ownGroups', layer },
      stepGroups: { kind: 'buffer', buffer, offsetBytes: 0 },
      numOwnGroups: { kind: 'value', value: numOwnGroups(limits) },
    };
  }

  #rope(rope: RopeSpec): number {
    const key = JSON.stringify(rope);
    const known = this.#ropeIndices.get(key);
    if (known !== undefined) return known;
    const index = this.#ropes.push(rope) - 1;
    this.#ropeIndices.set(key, index);
    return index;
  }

  #useKvCache(label: string, heads: { numKvHeads: number; headDim: number; layer: number }): void {
    const { numKvHeads, headDim, layer } = heads;
    const { kvType, limits } = this.#plan.options;
    const known = this.#kvCache;
    if (known && (known.numKvHeads !== numKvHeads || known.headDim !== headDim)) {
      throw new PlanError(
        `${label}: ${numKvHeads} KV heads of ${headDim}; the layers before have ${known.numKvHeads} of ${known.headDim}, and one KV cache serves all`,
      );
    }
    const shape = { numKvHeads, headDim, kvType };
    this.#kvCache = {
      ...shape,
      numLayers: Math.max(known?.numLayers ?? 0, layer + 1),
      blockSize: kvBlockSize(kvType),
      keyBlockBytes: keyBlockBytes(shape),
      valueBlockBytes: valueBlockBytes(shape),
      numOwnGroups: hasOpenGroups(kvType) ? numOwnGroups(limits) : 0,
      openGroupBytes: hasOpenGroups(kvType) ? openGroupBytes(shape) : 0,
    };
  }
}

function cacheParams(layer: number): Params {
  return {
    keyCache: { kind: 'cache', store: 'key', layer },
    valueCache: { kind: 'cache', store: 'value', layer },
  };
}

/** Tokens times spans of split contexts in a step: of a tile, or of a sequence for every thread; none where no context has two spans. */
function maxParts({ maxModelLen, numThreads }: PlanLimits, tileTokens: number, bytes: number) {
  const maxSpans = Math.ceil(maxModelLen / SPAN_TOKENS);
  if (maxSpans < 2) return 0;
  const wanted = Math.max(tileTokens, numThreads) * maxSpans;
  return Math.max(maxSpans, Math.min(wanted, Math.floor(MAX_PART_BYTES / bytes)));
}
