/**
 * Where the tokens of unfinished blocks lie: open groups of 32 tokens (layout `open` of kv-layout.ts), keys then values, of one layer.
 *
 *     own groups    what sequences keep from step to step, `numOwnGroups` of them in each layer
 *     step groups   those that a step begins and ends, gone after the layer: number numOwnGroups + i is group i of them
 *
 * A query reads its own group here and what is before it in blocks (targets/open-groups.ts says which is whose).
 */
import type { KernelBuilder } from './builder.ts';
import type { Scalar } from './kernel-ir.ts';
import { type KvShape, keyBlockBytes, valueBlockBytes } from './kv-layout.ts';

type OpenShape = Omit<KvShape, 'kvType'>;

const openShape = ({ numKvHeads, headDim }: OpenShape): KvShape => ({
  numKvHeads,
  headDim,
  kvType: 'open',
});

/** Bytes of a group. */
export function openGroupBytes(shape: OpenShape): number {
  return openKeysBytes(shape) + valueBlockBytes(openShape(shape));
}

/** Bytes of the keys of a group; values stand behind them. */
export function openKeysBytes(shape: OpenShape): number {
  return keyBlockBytes(openShape(shape));
}

/** Address of a group. Params: ownGroups stepGroups numOwnGroups. */
export function openGroupAddress(k: KernelBuilder, shape: OpenShape, group: Scalar): Scalar {
  const bytes = openGroupBytes(shape);
  const address = k.add(k.arg('ownGroups'), k.mul(group, bytes));
  const numOwn = k.arg('numOwnGroups');
  k.if(group, 'ge', numOwn, () => {
    k.setScalar(address, k.add(k.arg('stepGroups'), k.mul(k.sub(group, numOwn), bytes)));
  });
  return address;
}
