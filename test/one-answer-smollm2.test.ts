/** One answer, bit for bit, on a real model: sizes of matrices that the tiny ones do not have. */
import path from 'node:path';
import { test } from 'node:test';
import { X64_ISAS } from '../src/targets/x64/isa.ts';
import { nativeIsas } from './native-models.ts';
import { oneAnswerSuite } from './one-answer-suite.ts';
import { findModelFile } from './real-model-file.ts';
import { TEST_ENVIRONMENT } from './run-hasten.ts';

const PLAN_CACHE = path.join(TEST_ENVIRONMENT.HASTEN_CACHE!, 'plans');

const { file, skip } = await findModelFile('smollm2');

if (file === null) {
  test('one answer on smollm2', { skip }, () => {});
} else {
  for (const isa of X64_ISAS) {
    for (const precision of ['fast', 'f32'] as const) {
      // f32 has the same kernels as a bf16 or f32 file, which the tiny models cover; here on the best level only.
      if (precision === 'f32' && isa !== nativeIsas[0]) continue;
      oneAnswerSuite(
        { name: 'smollm2', path: file, isa, precision, planCacheFolder: PLAN_CACHE },
        {
          lengths: [1, 3, 5, 8, 17, 2, 1, 4, 6, 1, 2, 1, 1, 2, 3, 1, 2],
          longLength: 80,
          chunkSizes: [1, 3, 16, 64],
          batchSizes: [5, 17],
          threads: [2],
          deepLength: precision === 'fast' && isa === nativeIsas[0] ? 600 : null,
          deepCuts: [[128, 3]],
        },
      );
    }
  }
}
