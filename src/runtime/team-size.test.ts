import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TeamSizePolicy } from './team-size.ts';

test('all threads run while nobody sleeps at barriers', () => {
  const policy = new TeamSizePolicy(4);
  for (let t = 0; t < 100; t++) {
    assert.equal(policy.choose(1, t), 4);
    policy.observe(1, 4, 0, t);
  }
});

test('sleeps shrink the team, and it tries again after pauses that grow', () => {
  const policy = new TeamSizePolicy(2);
  const tries: number[] = [];
  for (let now = 0; now < 4000; now += 5) {
    const threads = policy.choose(1, now);
    if (threads === 2) tries.push(now);
    policy.observe(1, threads, threads === 2 ? 30 : 0, now);
  }
  assert.ok(tries.length >= 4 && tries.length <= 8, `tries at ${tries}`);
  const pauses = tries.slice(1).map((t, i) => t - tries[i]!);
  for (let i = 1; i < pauses.length; i++) assert.ok(pauses[i]! >= pauses[i - 1]!);
});

test('the team is whole again once the machine is quiet', () => {
  const policy = new TeamSizePolicy(2);
  policy.observe(1, policy.choose(1, 0), 30, 0);
  assert.equal(policy.choose(1, 10), 1);
  assert.equal(policy.choose(1, 60), 2);
  policy.observe(1, 2, 0, 65);
  assert.equal(policy.choose(1, 66), 2);
});

test('a team of one never changes, and long steps always take all threads', () => {
  const one = new TeamSizePolicy(1);
  one.observe(1, one.choose(1, 0), 30, 0);
  assert.equal(one.choose(1, 1), 1);
  const two = new TeamSizePolicy(2);
  two.observe(1, two.choose(1, 0), 30, 0);
  assert.equal(two.choose(512, 1), 2);
});
