import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { TeamSizePolicy } from './team-size.ts';

interface Machine {
  /** Milliseconds of a step, and sleeps at its barriers, by threads. */
  readonly step: (threads: number, now: number) => { ms: number; sleeps: number };
}

/** Runs steps of one token until `end` milliseconds; gives the threads of each with its start. */
function run(policy: TeamSizePolicy, machine: Machine, start: number, end: number) {
  const steps: { now: number; threads: number }[] = [];
  for (let now = start; now < end; ) {
    const threads = policy.choose(1, now);
    const { ms, sleeps } = machine.step(threads, now);
    steps.push({ now, threads });
    now += ms;
    policy.observe(1, threads, sleeps, now);
  }
  return steps;
}

const share = (steps: readonly { threads: number }[], threads: number): number =>
  steps.filter((step) => step.threads === threads).length / steps.length;

const quiet: Machine = { step: (threads) => ({ ms: 4 / threads, sleeps: 0 }) };
/** A large model: threads wait for memory, and for each other long enough to fall asleep. */
const bandwidthBound: Machine = {
  step: (threads) => (threads === 2 ? { ms: 19, sleeps: 40 } : { ms: 27, sleeps: 0 }),
};
const contended: Machine = {
  step: (threads) => (threads === 2 ? { ms: 25, sleeps: 30 } : { ms: 4, sleeps: 0 }),
};

describe('team size', () => {
  test('all threads run while nobody sleeps at barriers', () => {
    assert.equal(share(run(new TeamSizePolicy(4), quiet, 0, 1000), 4), 1);
  });

  test('sleeps alone do not shrink a team that is faster', () => {
    const steps = run(new TeamSizePolicy(2), bandwidthBound, 0, 20_000);
    assert.ok(share(steps, 2) > 0.95, `${share(steps, 2)} of the steps on 2 threads`);
  });

  test('a team that is held up shrinks, and tries again after pauses that grow', () => {
    const steps = run(new TeamSizePolicy(2), contended, 0, 8000);
    assert.ok(share(steps, 1) > 0.98, `${share(steps, 1)} of the steps on 1 thread`);
    const tries = steps.filter(({ threads }) => threads === 2).map(({ now }) => now);
    const pauses = tries.slice(1).map((t, i) => t - tries[i]!);
    assert.ok(tries.length >= 4 && tries.length <= 12, `tries at ${tries}`);
    for (let i = 1; i < pauses.length; i++) assert.ok(pauses[i]! >= pauses[i - 1]!);
  });

  test('contention is noticed at once, however often sleeps were a false alarm', () => {
    const policy = new TeamSizePolicy(2);
    run(policy, bandwidthBound, 0, 10_000);
    const busy: Machine = {
      step: (threads) => (threads === 2 ? { ms: 120, sleeps: 60 } : { ms: 28, sleeps: 0 }),
    };
    const steps = run(policy, busy, 10_000, 12_000);
    assert.ok(share(steps, 1) > 0.8, `${share(steps, 1)} of the steps on 1 thread`);
  });

  test('the team is whole again once the machine is quiet', () => {
    const policy = new TeamSizePolicy(2);
    run(policy, contended, 0, 8000);
    run(policy, quiet, 8000, 10_500);
    assert.equal(share(run(policy, quiet, 10_500, 11_000), 2), 1);
  });

  test('a team of one never changes, and long steps always take all threads', () => {
    assert.equal(share(run(new TeamSizePolicy(1), contended, 0, 100), 1), 1);
    const policy = new TeamSizePolicy(2);
    run(policy, contended, 0, 100);
    assert.equal(policy.choose(512, 100), 2);
  });
});
