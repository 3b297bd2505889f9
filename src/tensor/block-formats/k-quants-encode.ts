/**
 * f32 -> ggml's super-blocks of 256 (layouts: k-quants.ts), with and without an importance of each input channel. Each format first finds scale and
 * min of its groups (scale-search.ts), then quantizes those, then rounds every element once more with the scales as they are stored. Bytes equal
 * llama.cpp's.
 */
import { F16_TO_F32, f16Bits } from '../half.ts';
import type { EncodeBlocks, EncodeWeighted } from './block-format.ts';
import {
  type AffineSearch,
  affineFit,
  fitAffine,
  fitPositive,
  fitSymmetric,
  fitSymmetricByMoves,
  nearestInt,
  SMALLEST,
  STEP_01,
  WEIGHTED_SEARCH,
} from './scale-search.ts';

const fround = Math.fround;
const QK = 256;

const x = new Float32Array(QK);
const codes = new Uint8Array(QK);
const groupX = new Float32Array(32);
const groupWeights = new Float32Array(32);
const groupCodes = new Uint8Array(32);
const scales = new Float32Array(16);
const mins = new Float32Array(16);
const sums = new Float32Array(16);
const scaleCodes = new Uint8Array(16);
const minCodes = new Uint8Array(16);

type Importance = Float32Array | null;
type EncodeBlock = (
  importance: Importance,
  importanceAt: number,
  into: Uint8Array,
  at: number,
) => void;

/** One block after another; `importance` is that of a row's channels. */
function encoder(blockBytes: number, encodeBlock: EncodeBlock): EncodeWeighted {
  return (values, elements, into, byteOffset, importance) => {
    let at = byteOffset;
    for (let o = 0; o < elements; o += QK, at += blockBytes) {
      for (let i = 0; i < QK; i++) x[i] = values[o + i]!;
      encodeBlock(importance, o, into, at);
    }
  };
}

/** The same without importance. */
function plain(encode: EncodeWeighted): EncodeBlocks {
  return (values, elements, into, byteOffset) => encode(values, elements, into, byteOffset, null);
}

function storeF16(into: Uint8Array, at: number, value: number): number {
  const bits = f16Bits(value);
  into[at] = bits & 255;
  into[at + 1] = bits >> 8;
  return F16_TO_F32[bits]!;
}

function loadGroup(first: number, size: number): void {
  for (let i = 0; i < size; i++) groupX[i] = x[first + i]!;
}

function keepCodes(first: number, size: number): void {
  for (let i = 0; i < size; i++) codes[first + i] = groupCodes[i]!;
}

function meanSquare(): number {
  let sum = 0;
  for (let i = 0; i < QK; i++) sum = fround(sum + fround(x[i]! * x[i]!));
  return sum;
}

/** `importance * sqrt(sigma2 + x²)` */
function weighByImportance(
  importance: Float32Array,
  importanceAt: number,
  size: number,
  sigma2: number,
): void {
  for (let i = 0; i < size; i++) {
    const root = fround(Math.sqrt(fround(sigma2 + fround(groupX[i]! * groupX[i]!))));
    groupWeights[i] = fround(importance[importanceAt + i]! * root);
  }
}

function sumOfWeights(size: number): number {
  let sum = 0;
  for (let i = 0; i < size; i++) sum = fround(sum + groupWeights[i]!);
  return sum;
}

function largest(values: Float32Array, count: number): number {
  let most = 0;
  for (let g = 0; g < count; g++) if (values[g]! > most) most = values[g]!;
  return most;
}

/** Codes again, with the scale and min as stored: value = d * code - m. */
function roundAffine(first: number, size: number, d: number, m: number, levels: number): void {
  if (d === 0) return;
  for (let i = first; i < first + size; i++) {
    const l = nearestInt(fround(fround(x[i]! + m) / d));
    codes[i] = l < 0 ? 0 : l > levels ? levels : l;
  }
}

function roundSymmetric(first: number, size: number, d: number, levels: number): void {
  if (d === 0) return;
  for (let i = first; i < first + size; i++) {
    const l = nearestInt(fround(x[i]! / d));
    codes[i] = levels + (l < -levels ? -levels : l > levels - 1 ? levels - 1 : l);
  }
}

// ---- Q2_K ----

export const Q2_SEARCH: AffineSearch = { first: -0.5, step: STEP_01, count: 15, isAbsolute: true };

const encodeQ2K = encoder(84, (importance, importanceAt, into, at) => {
  const sigma2 = importance === null ? 0 : fround(meanSquare() / QK);
  for (let g = 0; g < 16; g++) {
    loadGroup(16 * g, 16);
    if (importance === null) {
      for (let i = 0; i < 16; i++) groupWeights[i] = Math.abs(groupX[i]!);
      scales[g] = fitAffine(16, 3, groupX, groupWeights, groupCodes, Q2_SEARCH);
    } else {
      weighByImportance(importance, importanceAt + 16 * g, 16, sigma2);
      sums[g] = sumOfWeights(16);
      scales[g] = fitAffine(16, 3, groupX, groupWeights, groupCodes, WEIGHTED_SEARCH);
    }
    mins[g] = affineFit.min;
    keepCodes(16 * g, 16);
  }
  let d: number;
  let dmin: number;
  if (importance === null) {
    d = quantizeQ2Scales(scales, scaleCodes);
    dmin = quantizeQ2Scales(mins, minCodes);
  } else {
    d = fitPositive(16, 15, scales, scaleCodes, sums);
    dmin = fitPositive(16, 15, mins, minCodes, sums);
  }
  d = storeF16(into, at + 80, d);
  dmin = storeF16(into, at + 82, dmin);
  for (let g = 0; g < 16; g++) {
    into[at + g] = scaleCodes[g]! | (minCodes[g]! << 4);
    roundAffine(16 * g, 16, fround(d * scaleCodes[g]!), fround(dmin * minCodes[g]!), 3);
  }
  storePairs(into, at + 16);
});

function quantizeQ2Scales(values: Float32Array, into: Uint8Array): number {
  const max = largest(values, 16);
  if (!(max > 0)) {
    into.fill(0);
    return 0;
  }
  const inverse = fround(15 / max);
  for (let g = 0; g < 16; g++) into[g] = nearestInt(fround(inverse * values[g]!));
  return fround(max / 15);
}

/** Two low bits of every code. */
function storePairs(into: Uint8Array, at: number): void {
  for (let j = 0; j < QK; j += 128) {
    for (let l = 0; l < 32; l++) {
      const c = j + l;
      into[at + j / 4 + l] =
        (codes[c]! & 3) |
        ((codes[c + 32]! & 3) << 2) |
        ((codes[c + 64]! & 3) << 4) |
        ((codes[c + 96]! & 3) << 6);
    }
  }
}

// ---- Q3_K ----

const encodeQ3K = encoder(110, (importance, importanceAt, into, at) => {
  const sigma2 = importance === null ? 0 : fround(fround(2 * meanSquare()) / QK);
  for (let g = 0; g < 16; g++) {
    loadGroup(16 * g, 16);
    if (importance === null) {
      scales[g] = fitSymmetricByMoves(16, 4, groupX, groupCodes);
    } else {
      weighByImportance(importance, importanceAt + 16 * g, 16, sigma2);
      sums[g] = sumOfWeights(16);
      scales[g] = fitSymmetric(16, 4, groupX, groupCodes, groupWeights);
    }
    keepCodes(16 * g, 16);
  }
  const d = storeF16(
    into,
    at + 108,
    importance === null ? quantizeQ3Scales() : fitSymmetric(16, 32, scales, scaleCodes, sums),
  );
  into.fill(0, at + 96, at + 108);
  for (let g = 0; g < 16; g++) {
    const l = scaleCodes[g]!;
    if (g < 8) into[at + 96 + g] = l & 15;
    else into[at + 96 + g - 8]! |= (l & 15) << 4;
    into[at + 104 + (g & 3)]! |= (l >> 4) << (2 * (g >> 2));
    roundSymmetric(16 * g, 16, fround(d * (l - 32)), 4);
  }
  into.fill(0, at, at + 32);
  for (let i = 0; i < QK; i++) if (codes[i]! > 3) into[at + (i & 31)]! |= 1 << (i >> 5);
  storePairs(into, at + 32);
});

function quantizeQ3Scales(): number {
  let most = 0;
  let signed = 0;
  for (let g = 0; g < 16; g++) {
    if (Math.abs(scales[g]!) > most) {
      most = Math.abs(scales[g]!);
      signed = scales[g]!;
    }
  }
  if (signed === 0) {
    scaleCodes.fill(0);
    return 0;
  }
  const inverse = fround(-32 / signed);
  for (let g = 0; g < 16; g++) {
    const l = nearestInt(fround(inverse * scales[g]!));
    scaleCodes[g] = 32 + (l < -32 ? -32 : l > 31 ? 31 : l);
  }
  return fround(1 / inverse);
}

// ---- Q4_K and Q5_K ----

function encodeQ4OrQ5(levels: 15 | 31, blockBytes: number, search: AffineSearch): EncodeWeighted {
  return encoder(blockBytes, (importance, importanceAt, into, at) => {
    const sigma2 = importance === null ? 0 : fround(fround(2 * meanSquare()) / QK);
    for (let g = 0; g < 8; g++) {
      loadGroup(32 * g, 32);
      if (importance === null) {
        let sum = 0;
        for (let i = 0; i < 32; i++) sum = fround(sum + fround(groupX[i]! * groupX[i]!));
        const mean = fround(Math.sqrt(fround(sum / 32)));
        for (let i = 0; i < 32; i++) groupWeights[i] = fround(mean + Math.abs(groupX[i]!));
      } else {
        weighByImportance(importance, importanceAt + 32 * g, 32, sigma2);
        sums[g] = sumOfWeights(32);
      }
      const chosen = importance === null ? search : WEIGHTED_SEARCH;
      scales[g] = fitAffine(32, levels, groupX, groupWeights, groupCodes, chosen);
      mins[g] = affineFit.min;
      keepCodes(32 * g, 32);
    }
    const quantizeScales = importance === null ? quantizeQ4Scales : quantizeQ4ScalesWeighted;
    const d = storeF16(into, at, quantizeScales(scales, scaleCodes));
    const dmin = storeF16(into, at + 2, quantizeScales(mins, minCodes));
    for (let g = 0; g < 8; g++) {
      const s = at + 4 + g;
      const scale = scaleCodes[g]!;
      const min = minCodes[g]!;
      if (g < 4) {
        into[s] = scale;
        into[s + 4] = min;
      } else {
        into[s + 4] = (scale & 15) | ((min & 15) << 4);
        into[s - 4]! |= (scale >> 4) << 6;
        into[s]! |= (min >> 4) << 6;
      }
      roundAffine(32 * g, 32, fround(d * scale), fround(dmin * min), levels);
    }
    if (levels === 31) into.fill(0, at + 16, at + 48);
    const nibbles = at + (levels === 31 ? 48 : 16);
    for (let chunk = 0; chunk < 4; chunk++) {
      for (let j = 0; j < 32; j++) {
        const a = codes[64 * chunk + j]!;
        const b = codes[64 * chunk + 32 + j]!;
        into[nibbles + 32 * chunk + j] = (a & 15) | ((b & 15) << 4);
        if (levels === 31) into[at + 16 + j]! |= ((a >> 4) | ((b >> 4) << 1)) << (2 * chunk);
      }
    }
  });
}

function quantizeQ4Scales(values: Float32Array, into: Uint8Array): number {
  const max = largest(values, 8);
  const inverse = max > 0 ? fround(63 / max) : 0;
  for (let g = 0; g < 8; g++) into[g] = Math.min(63, nearestInt(fround(inverse * values[g]!)));
  return fround(max / 63);
}

function quantizeQ4ScalesWeighted(values: Float32Array, into: Uint8Array): number {
  return fitPositive(8, 63, values, into, sums);
}

export const Q4_SEARCH: AffineSearch = { first: -1, step: STEP_01, count: 20, isAbsolute: false };
export const Q5_SEARCH: AffineSearch = { first: -0.5, step: STEP_01, count: 15, isAbsolute: false };

const encodeQ4K = encodeQ4OrQ5(15, 144, Q4_SEARCH);
const encodeQ5K = encodeQ4OrQ5(31, 176, Q5_SEARCH);

// ---- Q6_K ----

const encodeQ6K = encoder(210, (importance, importanceAt, into, at) => {
  let most = 0;
  let signed = 0;
  for (let g = 0; g < 16; g++) {
    loadGroup(16 * g, 16);
    if (importance !== null) {
      for (let i = 0; i < 16; i++) groupWeights[i] = importance[importanceAt + 16 * g + i]!;
    }
    scales[g] = fitSymmetric(16, 32, groupX, groupCodes, importance === null ? null : groupWeights);
    keepCodes(16 * g, 16);
    if (Math.abs(scales[g]!) > most) {
      most = Math.abs(scales[g]!);
      signed = scales[g]!;
    }
  }
  if (most < SMALLEST) {
    into.fill(0, at, at + 210);
    return;
  }
  const inverse = fround(-128 / signed);
  const d = storeF16(into, at + 208, fround(1 / inverse));
  for (let g = 0; g < 16; g++) {
    const scale = Math.min(127, nearestInt(fround(inverse * scales[g]!)));
    into[at + 192 + g] = scale;
    roundSymmetric(16 * g, 16, fround(d * scale), 32);
  }
  for (let half = 0; half < 2; half++) {
    for (let l = 0; l < 32; l++) {
      const c = 128 * half + l;
      const [a, b, e, f] = [codes[c]!, codes[c + 32]!, codes[c + 64]!, codes[c + 96]!];
      into[at + 64 * half + l] = (a & 15) | ((e & 15) << 4);
      into[at + 64 * half + 32 + l] = (b & 15) | ((f & 15) << 4);
      into[at + 128 + 32 * half + l] =
        (a >> 4) | ((b >> 4) << 2) | ((e >> 4) << 4) | ((f >> 4) << 6);
    }
  }
});

/** By format: without importance, and with. */
export const K_QUANT_ENCODERS = {
  q2_k: { encode: plain(encodeQ2K), encodeWeighted: encodeQ2K },
  q3_k: { encode: plain(encodeQ3K), encodeWeighted: encodeQ3K },
  q4_k: { encode: plain(encodeQ4K), encodeWeighted: encodeQ4K },
  q5_k: { encode: plain(encodeQ5K), encodeWeighted: encodeQ5K },
  q6_k: { encode: plain(encodeQ6K), encodeWeighted: encodeQ6K },
} as const satisfies Record<string, { encode: EncodeBlocks; encodeWeighted: EncodeWeighted }>;
