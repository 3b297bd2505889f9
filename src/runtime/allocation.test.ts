/** A step allocates nothing that grows with tokens, sequences or layers. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { skipNative } from '../../test/native-models.ts';

const PROGRAM = fileURLToPath(new URL('./testing/decode-process.ts', import.meta.url));
const MODEL = fileURLToPath(
  new URL('../../test/fixtures/tiny-gguf/llama-q4_0.gguf', import.meta.url),
);

/**
 * Bytes per step of 4 sequences, once V8 has compiled the step: measured 32 to 48, the boxed doubles of clock readings. One object per sequence, command or
 * row of logits would show: a step has 4, 31 and 4 of them, and the smallest object takes 16 bytes.
 */
const MAX_BYTES_PER_STEP = 96;
/** While V8 still interprets: measured 50 to 275 after the first round. */
const MAX_WARM_BYTES_PER_STEP = 512;

describe('steps of decoding', { skip: skipNative }, () => {
  for (const threads of ['1', '2']) {
    it(`allocate nothing per token on ${threads} threads`, () => {
      const output = execFileSync(process.execPath, ['--expose-gc', PROGRAM, MODEL, threads]);
      const { bytesPerStep, areFinite } = JSON.parse(output.toString());
      assert.ok(areFinite, 'logits are finite');
      // A garbage collection within a round would show as a negative figure.
      const shown = bytesPerStep.map((bytes: number) => Math.round(bytes)).join(' ');
      assert.ok(Math.min(...bytesPerStep) >= 0, `collected in a round: ${shown}`);
      assert.ok(Math.max(...bytesPerStep.slice(1)) <= MAX_WARM_BYTES_PER_STEP, shown);
      // What a step allocates shows in every round; what V8 does beside it does not.
      assert.ok(Math.min(...bytesPerStep) <= MAX_BYTES_PER_STEP, shown);
    });
  }
});
