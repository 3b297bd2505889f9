/**
 * Where the time of a step goes: every command of the plan timed inside native code over several steps, medians, then summed by kind. The batch of the
 * step is that of `SequenceDriver`: one sequence.
 */
import type { CommandTime, NativeRunner } from '../runtime/native-runner.ts';
import { SequenceDriver } from './sequence-driver.ts';

export interface ProfiledCommand {
  readonly label: string;
  /** `layers.3`, or what stands before or behind the layers. */
  readonly layer: string;
  readonly op: string;
  readonly kernel: string;
  readonly workMs: number;
  /** Time at the barrier behind it, waiting for other threads. */
  readonly waitMs: number;
  readonly weightBytes: number;
  /** Multiply-adds of matrices. */
  readonly macs: number;
}

export interface StepProfile {
  readonly numTokens: number;
  readonly contextLen: number;
  readonly threads: number;
  /** Median wall time of the step. */
  readonly stepMs: number;
  readonly commands: readonly ProfiledCommand[];
}

export interface StepShape {
  /** Tokens of the step. */
  readonly numTokens: number;
  /** Tokens of the sequence before it. */
  readonly numPast: number;
}

const WARM_UP_STEPS = 2;

/** @param repetitions timed steps, each on the same past */
export async function profileStep(
  runner: NativeRunner,
  { numTokens, numPast }: StepShape,
  repetitions: number,
): Promise<StepProfile> {
  const driver = new SequenceDriver(runner);
  const { vocabSize } = runner.limits;
  const ids = Int32Array.from(
    { length: numPast + numTokens },
    (_, i) => (i * 7919 + 13) % vocabSize,
  );
  if (numPast > 0) await driver.feed(ids.subarray(0, numPast), 'none');
  await driver.feed(ids.subarray(numPast), 'last');
  // The runner's batch now holds the step; running it again computes the same once more.
  for (let i = 0; i < WARM_UP_STEPS; i++) runner.submit();
  const wall: number[] = [];
  const runs: CommandTime[][] = [];
  for (let i = 0; i < repetitions; i++) {
    const begin = performance.now();
    runs.push(runner.profile());
    wall.push(performance.now() - begin);
  }
  const stepMs = median(wall);
  const at = (i: number, ticks: (time: CommandTime) => number): number =>
    median(runs.map((run) => ticks(run[i]!)));
  const work = runs[0]!.map((_, i) => at(i, (time) => time.workTicks));
  const wait = runs[0]!.map((_, i) => at(i, (time) => time.waitTicks));
  const totalTicks = [...work, ...wait].reduce((sum, ticks) => sum + ticks, 0);
  const msPerTick = stepMs / totalTicks;
  return {
    numTokens,
    contextLen: numPast + numTokens,
    threads: runner.numThreads,
    stepMs,
    commands: runs[0]!.map(({ label, op, kernel, weightBytes, macs }, i) => ({
      label,
      layer: /^layers\.\d+/.exec(label)?.[0] ?? label,
      op,
      kernel: kernel.replace(/^k\d+_/, ''),
      workMs: work[i]! * msPerTick,
      waitMs: wait[i]! * msPerTick,
      weightBytes,
      macs,
    })),
  };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** All commands of one kind: the same place in every layer, the same kernel. */
export interface ProfileRow {
  readonly name: string;
  readonly kernel: string;
  readonly count: number;
  readonly workMs: number;
  readonly waitMs: number;
  readonly share: number;
  /** Weights read per second, 10^9 bytes; 0 without weights. */
  readonly gigabytesPerSecond: number;
  /** Operations of matrices per second, 10^9; a multiply-add is two. */
  readonly gops: number;
}

/** Largest first. */
export function profileRows({ commands }: StepProfile): ProfileRow[] {
  const groups = new Map<string, ProfiledCommand[]>();
  for (const command of commands) {
    const key = `${command.label.replace(/\d+/, '*')} ${command.kernel}`;
    groups.set(key, [...(groups.get(key) ?? []), command]);
  }
  const sum = (group: readonly ProfiledCommand[], of: (c: ProfiledCommand) => number): number =>
    group.reduce((total, c) => total + of(c), 0);
  const allMs = sum(commands, (c) => c.workMs + c.waitMs);
  return [...groups.values()]
    .map((group) => {
      const workMs = sum(group, (c) => c.workMs);
      const waitMs = sum(group, (c) => c.waitMs);
      const seconds = (workMs + waitMs) / 1000;
      return {
        name: group[0]!.label.replace(/\d+/, '*'),
        kernel: group[0]!.kernel,
        count: group.length,
        workMs,
        waitMs,
        share: (workMs + waitMs) / allMs,
        gigabytesPerSecond: sum(group, (c) => c.weightBytes) / seconds / 1e9,
        gops: (2 * sum(group, (c) => c.macs)) / seconds / 1e9,
      };
    })
    .sort((a, b) => b.share - a.share);
}
