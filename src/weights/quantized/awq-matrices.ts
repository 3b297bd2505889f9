/** Files of AWQ, version gemm: `qweight`, `qzeros`, `scales`, by input. */
import type { WeightSource } from '../contract.ts';
import { type IndexedMatrix, unpackAwq } from '../hf-packed.ts';
import {
  areHalves,
  type ForeignMatrix,
  type FoundMatrices,
  groupRuns,
  holderOf,
  ints,
  prefixesOf,
  type QuantizationConfig,
  type Refuse,
  shapeOf,
} from './foreign-matrix.ts';

export function awqMatrices(
  source: WeightSource,
  config: QuantizationConfig,
  refuse: Refuse,
): FoundMatrices {
  const version = String(config.version ?? 'gemm').toLowerCase();
  if (version !== 'gemm') refuse(`AWQ version "${version}"; accepted: gemm`);
  const bits = Number(config.bits ?? config.w_bit);
  if (bits !== 4) refuse(`AWQ of ${bits} bits; accepted: 4`);
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'qweight')) {
    for (const part of ['qweight', 'qzeros', 'scales']) parts.add(prefix + part);
    const [columns, words] = shapeOf(source, `${prefix}qweight`, refuse);
    const rows = 8 * words;
    const [numGroups, scaleRows] = shapeOf(source, `${prefix}scales`, refuse);
    const [zeroGroups, zeroWords] = shapeOf(source, `${prefix}qzeros`, refuse);
    if (
      scaleRows !== rows ||
      zeroGroups !== numGroups ||
      zeroWords !== words ||
      columns % numGroups !== 0
    ) {
      refuse(`tensors "${prefix}qweight", "qzeros" and "scales" do not fit each other`);
    }
    const groupSize = columns / numGroups;
    const read = (): IndexedMatrix => ({
      ...unpackAwq(
        {
          qweight: ints(source, `${prefix}qweight`),
          qzeros: ints(source, `${prefix}qzeros`),
          scales: source.readF32(`${prefix}scales`),
        },
        { rows, columns, groupSize },
      ),
      groupOf: null,
    });
    const holder = holderOf(
      { bits: 4, isSymmetric: false, hasHalves: areHalves(source, `${prefix}scales`) },
      groupRuns(null, numGroups, groupSize),
    );
    matrices.set(`${prefix}weight`, { rows, columns, ...holder, read });
  }
  return { matrices, parts };
}
