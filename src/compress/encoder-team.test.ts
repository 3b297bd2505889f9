import assert from 'node:assert/strict';
import { it } from 'node:test';
import { encodeRows, type RowsToEncode } from './encode-rows.ts';
import { EncoderTeam } from './encoder-team.ts';
import { NonFiniteWeightError } from './errors.ts';

const COLUMNS = 256;
const values = Float32Array.from({ length: 12 * COLUMNS }, (_, i) => Math.sin(i * i) * (i % 7));
const channels = Float32Array.from({ length: COLUMNS }, (_, i) => 1 + (i % 5));

/** Rows of `values` in memory of their own. */
function jobOf(first: number, end: number): RowsToEncode {
  const stored = new Uint8Array(values.slice(first * COLUMNS, end * COLUMNS).buffer);
  return {
    tensor: 'w',
    firstRow: first,
    from: 'f32',
    to: 'q4_k',
    stored,
    columns: COLUMNS,
    channels: null,
  };
}

it('gives the bytes of one thread, whatever chunks are made at once', async () => {
  using team = new EncoderTeam(3, 1 << 30);
  assert.equal(team.depth, 6);
  const jobs = () =>
    Array.from({ length: 12 }, (_, i) => ({
      ...jobOf(i, i + 1),
      channels: i % 2 === 0 ? null : channels,
    }));
  const expected = jobs().map((job) => encodeRows(job, null));
  assert.notDeepEqual(expected[0], encodeRows({ ...jobOf(0, 1), channels }, null));
  assert.deepEqual(await Promise.all(jobs().map((job) => team.encode(job))), expected);
  assert.equal(team.buffer(100).buffer.byteLength, 4 * COLUMNS, 'memory is used again');
});

it('tells what a thread could not do', async () => {
  using team = new EncoderTeam(2, 1 << 30);
  const whole = jobOf(0, 12);
  await assert.rejects(team.encode({ ...whole, to: 'q8_0', columns: 48 }), /multiple of/);
  assert.equal((await team.encode({ ...jobOf(0, 12), to: 'q8_0' })).length, 12 * 8 * 34);
  const bad = jobOf(2, 4);
  new Float32Array(bad.stored.buffer)[COLUMNS + 5] = Number.NaN;
  await assert.rejects(
    team.encode(bad),
    (error) => error instanceof NonFiniteWeightError && error.row === 3 && error.column === 5,
  );
});
