/** What the inputs of a linear over many tokens need before they are factors of a product (packed-product.ts): how large each token is, and packing with a weight each. */
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, Vector, VectorMachine } from './kernel-ir.ts';
import { ROW_GROUP } from './packed-format.ts';
import { forEachUnit } from './units.ts';

/** Sum of the squares of every token's inputs, f32 `[numUnits]`. Params: rows stride f32 `[numUnits, numVectors * lanes]`; out; numVectors. A unit is a token. */
export function tokenEnergiesKernel(machine: VectorMachine): KernelProgram {
  const k = new KernelBuilder('tokenEnergies', machine);
  forEachUnit(k, (token) => {
    const at = k.add(k.arg('rows'), k.mul(token.get(), k.arg('stride')));
    const sum = k.zero();
    k.loop(
      k.arg('numVectors'),
      () => {
        const value = k.load(k.at(at));
        k.fmaInto(sum, value, value);
        k.addTo(at, 4 * k.lanes);
      },
      { countIsPositive: true },
    );
    const out = k.add(k.arg('out'), k.shl(token.get(), 2));
    k.store(k.at(out), k.unary('f32.reduceAdd', sum), 'bits', 1);
  });
  return k.finish();
}

/**
 * packed(column, token) = weights[token] * rows[token][column], and magnitudes[column] the sum of their absolute values; or with `isChange`
 * weights[token] * factors[column] * rows[token][column] - other(column, token).
 *
 * Params: rows stride f32 `[numTokens, columns]`; weights f32 `[numTokens]`; packed groupStride; numTokens; magnitudes f32 `[columns]`; factors f32 `[columns]` and other, packed alike. A
 * unit is a group of 16 columns.
 */
export function packTokensKernel(
  machine: VectorMachine,
  { isChange }: { readonly isChange: boolean },
): KernelProgram {
  const k = new KernelBuilder(`packTokens${isChange ? '_change' : ''}`, machine);
  const vectors = Array.from({ length: ROW_GROUP / k.lanes }, (_, v) => 4 * k.lanes * v);
  forEachUnit(k, (group) => {
    const column = k.mul(group.get(), 4 * ROW_GROUP);
    const at = k.add(k.arg('rows'), column);
    const weight = k.arg('weights');
    const offset = k.mul(group.get(), k.arg('groupStride'));
    const packed = k.add(k.arg('packed'), offset);
    const other = isChange ? k.add(k.arg('other'), offset) : null;
    const perColumn = k.add(k.arg(isChange ? 'factors' : 'magnitudes'), column);
    const kept: Vector[] = vectors.map((v) => (isChange ? k.load(k.at(perColumn, v)) : k.zero()));
    const stride = k.arg('stride');
    const magnitudeMask = isChange ? null : k.splatBits(0x7fffffff);
    k.loop(
      k.arg('numTokens'),
      () => {
        const times = k.broadcast(k.at(weight));
        for (const [i, v] of vectors.entries()) {
          const value = k.mulF(k.load(k.at(at, v)), times);
          if (other) {
            k.mulF(value, kept[i]!, value);
            k.subF(value, k.load(k.at(other, v)), value);
          } else {
            k.addF(kept[i]!, k.binary('bits.and', value, magnitudeMask!), kept[i]!);
          }
          k.store(k.at(packed, v), value);
        }
        k.addTo(at, stride);
        k.addTo(weight, 4);
        for (const pointer of [packed, ...(other ? [other] : [])]) k.addTo(pointer, 4 * ROW_GROUP);
      },
      { countIsPositive: true },
    );
    if (!isChange) for (const [i, v] of vectors.entries()) k.store(k.at(perColumn, v), kept[i]!);
  });
  return k.finish();
}
