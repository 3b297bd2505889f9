/**
 * How busy others kept the machine while something ran: all busy CPU time of /proc/stat (with what a hypervisor took), less this process's and its
 * children's own. A measurement during which others were busy says little. Knows Linux's counters only.
 */
import { readFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';

interface CpuClock {
  readonly busySeconds: number;
  readonly totalSeconds: number;
  readonly ownSeconds: number;
}

/** USER_HZ, which is 100 on every Linux architecture that Node runs on. */
const TICKS_PER_SECOND = 100;

/** Counters of user, nice, system, idle, iowait, irq, softirq and steal time, from the text of /proc/stat. */
export function parseCpuLine(stat: string): { busy: number; total: number } {
  const ticks = /^cpu +(.*)$/m.exec(stat)?.[1]?.split(' ').slice(0, 8).map(Number) ?? [];
  const total = ticks.reduce((a, b) => a + b, 0);
  return { busy: total - (ticks[3] ?? 0) - (ticks[4] ?? 0), total };
}

/** utime, stime, and those of children that have ended, from the text of /proc/self/stat; the name in parentheses may hold anything. */
export function parseOwnTicks(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0);
}

/** CPU time of this process and of its children that have ended. */
export function ownCpuSeconds(): number {
  return parseOwnTicks(readFileSync('/proc/self/stat', 'utf8')) / TICKS_PER_SECOND;
}

function readClock(): CpuClock {
  const { busy, total } = parseCpuLine(readFileSync('/proc/stat', 'utf8'));
  return {
    busySeconds: busy / TICKS_PER_SECOND,
    totalSeconds: total / TICKS_PER_SECOND,
    ownSeconds: ownCpuSeconds(),
  };
}

/**
 * Runs `work` and tells the share of all CPU time that others took meanwhile, 0 to 1; NaN where the counters cannot be read.
 * `work` must have waited for every child it started.
 */
export async function withForeignLoad<T>(
  work: () => Promise<T>,
): Promise<{ readonly value: T; readonly foreignLoad: number }> {
  const before = tryClock();
  const value = await work();
  const after = tryClock();
  if (before === null || after === null) return { value, foreignLoad: Number.NaN };
  const busy = after.busySeconds - before.busySeconds - (after.ownSeconds - before.ownSeconds);
  const total = after.totalSeconds - before.totalSeconds;
  return { value, foreignLoad: total > 0 ? Math.max(0, busy / total) : 0 };
}

function tryClock(): CpuClock | null {
  try {
    return readClock();
  } catch {
    return null;
  }
}

/**
 * Waits until others leave the machine alone for two seconds, but no longer than `timeoutMs`.
 * @returns whether it became quiet
 */
export async function waitForQuiet(maxLoad: number, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const { foreignLoad } = await withForeignLoad(() => setTimeout(2000));
    if (!(foreignLoad > maxLoad)) return true;
    if (performance.now() > deadline) return false;
  }
}
