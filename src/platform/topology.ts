/**
 * How many cores and how much memory this process may really use: physical cores rather than
 * hyper-threads, the affinity mask, and the CPU and memory limits of its control group (v1 and v2).
 * Knows files under /proc and /sys, not who wants threads. Elsewhere than on Linux it falls back on
 * what node:os says.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { join } from 'node:path';

export interface CpuTopology {
  /** Logical CPUs the process may run on, ascending. */
  readonly logicalCpus: readonly number[];
  /** The same CPUs grouped by physical core. */
  readonly cores: readonly (readonly number[])[];
  /** CPUs' worth of time that the control group grants, such as 1.5; undefined if unlimited. */
  readonly quotaCpus: number | undefined;
  /** Threads worth starting: one per physical core, but no more than the quota covers, at least 1. */
  readonly usableCores: number;
}

export interface MemoryInfo {
  /** Memory of the machine, or of the control group where that is less. */
  readonly totalBytes: number;
  /** What can still be taken without swapping: free memory plus reclaimable page cache. */
  readonly availableBytes: number;
  /** The control group's limit; undefined if there is none. */
  readonly limitBytes: number | undefined;
}

/** Where /proc and /sys are found; another folder in tests. */
export interface TopologyOptions {
  readonly root?: string;
}

class SystemFiles {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  /** The trimmed text of a file, or undefined if it cannot be read. */
  read(path: string): string | undefined {
    try {
      return readFileSync(join(this.#root, path), 'utf8').trim();
    } catch {
      return undefined;
    }
  }

  /** A `Name:  value` field of a file such as /proc/meminfo. */
  field(path: string, name: string): string | undefined {
    const line = this.read(path)
      ?.split('\n')
      .find((l) => l.startsWith(`${name}:`));
    return line?.slice(name.length + 1).trim();
  }

  /** A kB field in bytes. */
  kilobytes(path: string, name: string): number | undefined {
    const value = Number.parseInt(this.field(path, name) ?? '', 10);
    return Number.isNaN(value) ? undefined : value * 1024;
  }
}

/** Parses the kernel's list format, `0-3,8,10-11`; ignores what it cannot read. */
export function parseCpuList(list: string): number[] {
  const cpus = new Set<number>();
  for (const part of list.split(',')) {
    const m = /^\s*(\d+)(?:-(\d+))?\s*$/.exec(part);
    if (m === null) continue;
    const first = Number(m[1]);
    const last = Math.min(Number(m[2] ?? m[1]), first + 65535);
    for (let cpu = first; cpu <= last; cpu++) cpus.add(cpu);
  }
  return [...cpus].sort((a, b) => a - b);
}

/** One line of /proc/self/cgroup. */
interface ControlGroup {
  /** Controllers of a v1 hierarchy; empty for v2. */
  readonly controllers: readonly string[];
  readonly path: string;
}

function controlGroups(files: SystemFiles): ControlGroup[] {
  return (files.read('proc/self/cgroup') ?? '').split('\n').flatMap((line) => {
    const m = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (m === null) return [];
    return [{ controllers: m[1] === '' ? [] : m[1]!.split(','), path: m[2]! }];
  });
}

/**
 * A group's folder and its ancestors', nearest first: a limit on any of them binds. Inside a
 * container the path may be the host's and not exist; the mount itself is then the group's own.
 */
function ancestors(mount: string, path: string): string[] {
  const parts = path.split('/').filter((p) => p !== '' && p !== '..');
  return Array.from({ length: parts.length + 1 }, (_, i) =>
    join(mount, ...parts.slice(0, parts.length - i)),
  );
}

/** The smallest of the limits that `read` finds in the groups that bind a v1 controller or v2. */
function smallestLimit(
  files: SystemFiles,
  controller: string,
  readV2: (folder: string) => number | undefined,
  readV1: (folder: string) => number | undefined,
): number | undefined {
  const limits: number[] = [];
  for (const group of controlGroups(files)) {
    const isV2 = group.controllers.length === 0;
    if (!isV2 && !group.controllers.includes(controller)) continue;
    const mounts = isV2
      ? ['sys/fs/cgroup', 'sys/fs/cgroup/unified']
      : [`sys/fs/cgroup/${controller}`, `sys/fs/cgroup/${group.controllers.join(',')}`];
    for (const folder of mounts.flatMap((mount) => ancestors(mount, group.path))) {
      const limit = (isV2 ? readV2 : readV1)(folder);
      if (limit !== undefined) limits.push(limit);
    }
  }
  return limits.length === 0 ? undefined : Math.min(...limits);
}

function cpuQuota(files: SystemFiles): number | undefined {
  const quotient = (quota: number, period: number): number | undefined =>
    quota > 0 && period > 0 ? quota / period : undefined;
  return smallestLimit(
    files,
    'cpu',
    (folder) => {
      const [quota, period] = (files.read(join(folder, 'cpu.max')) ?? '').split(/\s+/);
      return quotient(Number(quota), Number(period ?? 100000)); // "max 100000" gives NaN
    },
    (folder) =>
      quotient(
        Number(files.read(join(folder, 'cpu.cfs_quota_us')) ?? -1),
        Number(files.read(join(folder, 'cpu.cfs_period_us')) ?? 0),
      ),
  );
}

/** Physical cores, affinity and quota of this process. */
export function cpuTopology(options: TopologyOptions = {}): CpuTopology {
  const files = new SystemFiles(options.root ?? '/');
  let logicalCpus = parseCpuList(files.field('proc/self/status', 'Cpus_allowed_list') ?? '');
  if (logicalCpus.length === 0) {
    logicalCpus = Array.from({ length: availableParallelism() }, (_, i) => i);
  }
  const byCore = new Map<string, number[]>();
  for (const cpu of logicalCpus) {
    const folder = `sys/devices/system/cpu/cpu${cpu}/topology`;
    const siblings =
      files.read(join(folder, 'core_cpus_list')) ??
      files.read(join(folder, 'thread_siblings_list'));
    const key = siblings ?? String(cpu);
    const core = byCore.get(key);
    if (core === undefined) byCore.set(key, [cpu]);
    else core.push(cpu);
  }
  const cores = [...byCore.values()];
  const quotaCpus = cpuQuota(files);
  const granted = quotaCpus === undefined ? cores.length : Math.floor(quotaCpus);
  return {
    logicalCpus,
    cores,
    quotaCpus,
    usableCores: Math.max(1, Math.min(cores.length, granted)),
  };
}

/** Total and available memory within the limits of the control group. */
export function memoryInfo(options: TopologyOptions = {}): MemoryInfo {
  const files = new SystemFiles(options.root ?? '/');
  const machineTotal = files.kilobytes('proc/meminfo', 'MemTotal') ?? totalmem();
  const machineAvailable = files.kilobytes('proc/meminfo', 'MemAvailable') ?? freemem();
  const bytes = (path: string): number | undefined => {
    const value = Number(files.read(path) ?? Number.NaN); // "max" gives NaN
    // v1 says "no limit" by a number near 2^63.
    return Number.isFinite(value) && value < 2 ** 60 ? value : undefined;
  };
  const limitBytes = smallestLimit(
    files,
    'memory',
    (folder) => bytes(join(folder, 'memory.max')),
    (folder) => bytes(join(folder, 'memory.limit_in_bytes')),
  );
  if (limitBytes === undefined || limitBytes >= machineTotal) {
    return { totalBytes: machineTotal, availableBytes: machineAvailable, limitBytes };
  }
  const usedBytes = smallestLimit(
    files,
    'memory',
    (folder) => bytes(join(folder, 'memory.current')),
    (folder) => bytes(join(folder, 'memory.usage_in_bytes')),
  );
  const left = Math.max(0, limitBytes - (usedBytes ?? 0));
  return {
    totalBytes: limitBytes,
    availableBytes: Math.min(machineAvailable, left),
    limitBytes,
  };
}
