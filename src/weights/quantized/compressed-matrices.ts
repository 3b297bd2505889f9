/** Files of compressed-tensors: pack-quantized (codes in 32-bit words) and int-quantized (signed bytes). */
import type { WeightSource } from '../contract.ts';
import { type IndexedMatrix, unpackCompressedTensors } from '../hf-packed.ts';
import {
  areHalves,
  type ForeignMatrix,
  type FoundMatrices,
  groupOfInputs,
  groupRuns,
  holderOf,
  int8Dtype,
  int8Matrix,
  ints,
  prefixesOf,
  type QuantizationConfig,
  type Refuse,
  shapeOf,
} from './foreign-matrix.ts';

export function compressedMatrices(
  source: WeightSource,
  config: QuantizationConfig,
  refuse: Refuse,
): FoundMatrices {
  if (config.format === 'int-quantized') return int8Matrices(source, refuse);
  if (config.format !== 'pack-quantized') {
    refuse(`compressed-tensors format "${config.format}"; accepted: pack-quantized, int-quantized`);
  }
  const groups = Object.values((config.config_groups ?? {}) as Record<string, unknown>);
  const scheme = (groups[0] as { weights?: Record<string, unknown> } | undefined)?.weights;
  const bits = Number(scheme?.num_bits);
  if (groups.length !== 1 || !(bits >= 2 && bits <= 8)) {
    refuse(`${groups.length} config_groups, ${bits} bits; accepted: one group, 2 to 8 bits`);
  }
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'weight_packed')) {
    const own = [
      'weight_packed',
      'weight_scale',
      'weight_shape',
      'weight_zero_point',
      'weight_g_idx',
    ];
    for (const part of own) parts.add(prefix + part);
    const [rows, words] = shapeOf(source, `${prefix}weight_packed`, refuse);
    const [, columns] = [...source.readF32(`${prefix}weight_shape`)];
    const [scaleRows, numGroups] = shapeOf(source, `${prefix}weight_scale`, refuse);
    const isSound =
      columns !== undefined &&
      words === Math.ceil((columns * bits) / 32) &&
      scaleRows === rows &&
      columns % numGroups === 0;
    if (!isSound)
      refuse(`tensors "${prefix}weight_packed" and "weight_scale" do not fit each other`);
    const width = columns!;
    const groupSize = width / numGroups;
    const groupOf = groupOfInputs(
      source,
      `${prefix}weight_g_idx`,
      { columns: width, numGroups },
      refuse,
    );
    const hasZeros = source.tensors.has(`${prefix}weight_zero_point`);
    const read = (): IndexedMatrix => ({
      ...unpackCompressedTensors(
        {
          packed: ints(source, `${prefix}weight_packed`),
          scales: source.readF32(`${prefix}weight_scale`),
          zeroPoints: hasZeros ? ints(source, `${prefix}weight_zero_point`) : null,
        },
        { rows, columns: width, bits, groupSize },
      ),
      groupOf,
    });
    const holder = holderOf(
      { bits, isSymmetric: !hasZeros, hasHalves: areHalves(source, `${prefix}weight_scale`) },
      groupRuns(groupOf, numGroups, groupSize),
    );
    matrices.set(`${prefix}weight`, { rows, columns: width, ...holder, read });
  }
  return { matrices, parts };
}

/** compressed-tensors int-quantized: `weight` i8 as it is, `weight_scale` of each row or group, `weight_zero_point` i8 where asymmetric. */
function int8Matrices(source: WeightSource, refuse: Refuse): FoundMatrices {
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'weight_scale')) {
    const weight = `${prefix}weight`;
    const own = ['weight', 'weight_scale', 'weight_zero_point', 'input_scale', 'input_zero_point'];
    for (const part of own) parts.add(prefix + part);
    if (source.tensors.has(`${prefix}input_scale`)) {
      refuse(
        `tensor "${prefix}input_scale": static scales of activations are not supported; accepted: dynamic ones`,
      );
    }
    const [rows, columns] = shapeOf(source, weight, refuse);
    const scaleShape = source.tensors.get(`${prefix}weight_scale`)!.shape;
    const numScales = scaleShape.reduce((product, dim) => product * dim, 1);
    const { dtype } = source.tensors.get(weight)!;
    if (dtype !== 'i8' || numScales % rows !== 0 || (rows * columns) % numScales !== 0) {
      refuse(
        `tensor "${weight}" is ${dtype} [${rows}, ${columns}] with scales [${scaleShape.join(', ')}]; expected i8 with scales of rows or groups`,
      );
    }
    const zeroName = `${prefix}weight_zero_point`;
    const hasZeros = source.tensors.has(zeroName);
    const read = (): IndexedMatrix => {
      const scales = source.readF32(`${prefix}weight_scale`);
      const zeroPoints = hasZeros ? source.readF32(zeroName) : null;
      if (zeroPoints !== null && zeroPoints.length !== scales.length) {
        refuse(`tensors "${zeroName}" and "weight_scale" do not fit each other`);
      }
      return int8Matrix(source, weight, { rows, columns, scales, zeroPoints });
    };
    // With a zero point, code - zero may need nine bits.
    const dtypeOf = hasZeros ? 'f32' : int8Dtype((rows * columns) / numScales);
    matrices.set(weight, { rows, columns, dtype: dtypeOf, read });
  }
  return { matrices, parts };
}
