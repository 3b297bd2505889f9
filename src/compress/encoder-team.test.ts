import assert from 'node:assert/strict';
import { it } from 'node:test';
import { encodeRows } from './encode-rows.ts';
import { EncoderTeam } from './encoder-team.ts';

const COLUMNS = 256;
const values = Float32Array.from({ length: 12 * COLUMNS }, (_, i) => Math.sin(i * i) * (i % 7));
const channels = Float32Array.from({ length: COLUMNS }, (_, i) => 1 + (i % 5));

it('gives the bytes of one thread, whatever chunks are made at once', async () => {
  using team = new EncoderTeam(3, 1 << 30);
  assert.equal(team.depth, 6);
  const chunks = Array.from({ length: 12 }, (_, i) => ({
    to: 'q4_k' as const,
    values: values.subarray(i * COLUMNS, (i + 1) * COLUMNS),
    columns: COLUMNS,
    channels: i % 2 === 0 ? null : channels,
  }));
  const expected = chunks.map((chunk) => encodeRows(chunk, null));
  assert.notDeepEqual(expected[0], encodeRows({ ...chunks[0]!, channels }, null));
  assert.deepEqual(await Promise.all(chunks.map((chunk) => team.encode(chunk))), expected);
  assert.ok(
    values.some((value) => value !== 0),
    'the values are still there',
  );
});

it('tells what a thread could not do', async () => {
  using team = new EncoderTeam(2, 1 << 30);
  const rows = { to: 'q8_0' as const, values, columns: 100, channels: null };
  await assert.rejects(team.encode(rows), /multiple of/);
  assert.equal((await team.encode({ ...rows, columns: COLUMNS })).length, 12 * 8 * 34);
});
