/** One answer, bit for bit, on the tiny models and every level of machine code that this machine has. */
import { availableParallelism } from 'node:os';
import path from 'node:path';
import type { KvType } from '../src/kernels/kv-layout.ts';
import { X64_ISAS } from '../src/targets/x64/isa.ts';
import { oneAnswerSuite } from './one-answer-suite.ts';

const FIXTURES = path.join(import.meta.dirname, 'fixtures');

/** Packed 4-bit with and without minimum and 8-bit, on int8 and on f32 activations; a window and norms around each part; bf16; biases. */
const CASES: readonly { name: string; precision: 'fast' | 'f32'; kvType?: KvType }[] = [
  { name: 'tiny-gguf/llama-q4_0.gguf', precision: 'fast' },
  { name: 'tiny-gguf/llama-q4_0.gguf', precision: 'f32' },
  { name: 'tiny-gguf/llama-q4_1.gguf', precision: 'fast' },
  { name: 'tiny-gguf/llama-q8_0.gguf', precision: 'fast' },
  { name: 'tiny-gguf/llama-q8_0.gguf', precision: 'f32' },
  { name: 'tiny/gemma3', precision: 'fast' },
  { name: 'tiny/llama-bf16', precision: 'f32' },
  { name: 'tiny/qwen2', precision: 'f32' },
  { name: 'tiny-gguf/llama-q4_0.gguf', precision: 'fast', kvType: 'q8' },
  { name: 'tiny-gguf/llama-q4_0.gguf', precision: 'fast', kvType: 'q4' },
  { name: 'tiny/gemma3', precision: 'f32', kvType: 'q8' },
  { name: 'tiny/gemma3', precision: 'fast', kvType: 'q4' },
];

/** Around the sizes of a KV block and of an attention tile. */
const LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 18, 6, 47];
const CHUNK_SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 33, 64];
/** Up to more threads than there are cores, which must still come to an end: slowly, so the last ones not for every model. */
const THREADS = [2, 3, availableParallelism() + 2];
const CROWDED_MODELS = ['tiny-gguf/llama-q4_0.gguf', 'tiny/gemma3'];

for (const isa of X64_ISAS) {
  for (const { name, precision, kvType } of CASES) {
    const isCrowded = CROWDED_MODELS.includes(name);
    oneAnswerSuite(
      { name, path: path.join(FIXTURES, name), isa, precision, ...(kvType && { kvType }) },
      {
        lengths: LENGTHS,
        longLength: 150,
        chunkSizes: CHUNK_SIZES,
        batchSizes: [1, 2, 5, 17],
        threads: THREADS.filter((n) => (isCrowded && !kvType) || n <= availableParallelism()),
        deepLength: isCrowded ? 700 : null,
        deepCuts: [
          [700, 1],
          [100, 2],
          [256, 5],
          [300, 10],
        ],
      },
    );
  }
}
