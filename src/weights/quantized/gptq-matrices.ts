/** Files of GPTQ, v1 and v2: `qweight`, `qzeros`, `scales`, and `g_idx` where groups follow the order of activations. */
import type { WeightSource } from '../contract.ts';
import { type IndexedMatrix, unpackGptq, unpackGptqZeros } from '../hf-packed.ts';
import {
  areHalves,
  type ForeignMatrix,
  type FoundMatrices,
  groupOfInputs,
  groupRuns,
  holderOf,
  ints,
  prefixesOf,
  type QuantizationConfig,
  type Refuse,
  shapeOf,
} from './foreign-matrix.ts';

export function gptqMatrices(
  source: WeightSource,
  config: QuantizationConfig,
  refuse: Refuse,
): FoundMatrices {
  const bits = Number(config.bits);
  if (![2, 3, 4, 5, 6, 7, 8].includes(bits))
    refuse(`GPTQ of ${config.bits} bits; accepted: 2 to 8`);
  const stated = String(config.checkpoint_format ?? 'gptq');
  if (stated !== 'gptq' && stated !== 'gptq_v2') {
    refuse(`GPTQ checkpoint format "${stated}"; accepted: gptq, gptq_v2`);
  }
  // Modules that are left out (`-:`) are plain weights.
  const [own] = Object.keys(config.dynamic ?? {}).filter((name) => !name.startsWith('-:'));
  if (own !== undefined) {
    refuse(`GPTQ settings of some modules' own ("dynamic": "${own}"); accepted: one for all`);
  }
  const version = stated === 'gptq_v2' ? 2 : 1;
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'qweight')) {
    for (const part of ['qweight', 'qzeros', 'scales', 'g_idx']) parts.add(prefix + part);
    const [words, rows] = shapeOf(source, `${prefix}qweight`, refuse);
    const columns = (words * 32) / bits;
    const [numGroups, scaleRows] = shapeOf(source, `${prefix}scales`, refuse);
    const groupSize = Math.ceil(columns / numGroups);
    const [zeroGroups, zeroWords] = shapeOf(source, `${prefix}qzeros`, refuse);
    const isSound =
      Number.isInteger(columns) &&
      scaleRows === rows &&
      zeroGroups === numGroups &&
      zeroWords === Math.ceil((rows * bits) / 32);
    if (!isSound) refuse(`tensors "${prefix}qweight", "qzeros" and "scales" do not fit each other`);
    const gIdx = groupOfInputs(source, `${prefix}g_idx`, { columns, numGroups }, refuse);
    // Zero points of symmetric files are all in the middle; where the file says otherwise, they are looked at.
    const isSymmetric = config.sym !== false;
    const read = (): IndexedMatrix =>
      unpackGptq(
        {
          qweight: ints(source, `${prefix}qweight`),
          qzeros: ints(source, `${prefix}qzeros`),
          scales: source.readF32(`${prefix}scales`),
          gIdx,
        },
        { rows, columns, bits, groupSize },
        version,
        isSymmetric,
      );
    const middle = 2 ** (bits - 1);
    const isMiddle =
      isSymmetric &&
      unpackGptqZeros(ints(source, `${prefix}qzeros`), { rows, numGroups, bits }, version).every(
        (zero) => zero === middle,
      );
    const holder = holderOf(
      { bits, isSymmetric: isMiddle, hasHalves: areHalves(source, `${prefix}scales`) },
      groupRuns(gIdx, numGroups, groupSize),
    );
    matrices.set(`${prefix}weight`, { rows, columns, ...holder, read });
  }
  return { matrices, parts };
}
