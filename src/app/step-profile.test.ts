import assert from 'node:assert/strict';
import { test } from 'node:test';
import { profilePage } from './profile-page.ts';
import { type ProfiledCommand, profileRows, type StepProfile } from './step-profile.ts';

const command = (
  label: string,
  workMs: number,
  more: Partial<ProfiledCommand> = {},
): ProfiledCommand => ({
  label,
  layer: /^layers\.\d+/.exec(label)?.[0] ?? label,
  op: 'linear',
  kernel: 'matvec',
  workMs,
  waitMs: 0.5,
  weightBytes: 0,
  macs: 0,
  ...more,
});

const profile: StepProfile = {
  numTokens: 1,
  contextLen: 129,
  threads: 2,
  stepMs: 9,
  commands: [
    command('embed', 0.5),
    command('layers.0.mlp', 2, { weightBytes: 5e6, macs: 1e6 }),
    command('layers.1.mlp', 3, { weightBytes: 5e6, macs: 1e6 }),
    command('lm_head <script>', 1),
  ],
};

test('commands of one kind are summed over layers, largest share first', () => {
  const rows = profileRows(profile);
  assert.deepEqual(
    rows.map(({ name, count }) => [name, count]),
    [
      ['layers.*.mlp', 2],
      ['lm_head <script>', 1],
      ['embed', 1],
    ],
  );
  const [mlp] = rows;
  assert.equal(mlp!.workMs, 5);
  assert.equal(mlp!.waitMs, 1);
  assert.ok(Math.abs(mlp!.gigabytesPerSecond - 1e7 / 6e-3 / 1e9) < 1e-9);
  assert.ok(Math.abs(mlp!.gops - 4e6 / 6e-3 / 1e9) < 1e-9);
  assert.ok(Math.abs(rows.reduce((sum, row) => sum + row.share, 0) - 1) < 1e-12);
});

test('the page shows every command and escapes names', () => {
  const page = profilePage('a & b', [profile]);
  assert.equal(page.match(/<i style/g)!.length, 4 + 4);
  assert.ok(!page.includes('<script>'));
  assert.ok(page.includes('a &#38; b'));
});
