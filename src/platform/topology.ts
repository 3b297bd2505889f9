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

/** The folders whose limits of `controller` bind this process. */
function bindingFolders(
  files: SystemFiles,
  controller: 'cpu' | 'memory',
): { readonly folder: string; readonly isV2: boolean }[] {
  return controlGroups(files).flatMap(({ controllers, path }) => {
    const isV2 = controllers.length === 0;
    if (!isV2 && !controllers.includes(controller)) return [];
    const mounts = isV2
      ? ['sys/fs/cgroup', 'sys/fs/cgroup/unified']
      : new Set([`sys/fs/cgroup/${controller}`, `sys/fs/cgroup/${controllers.join(',')}`]);
    return [...mounts].flatMap((mount) =>
      ancestors(mount, path).map((folder) => ({ folder, isV2 })),
    );
  });
}

/** The smallest defined value, or undefined if there is none. */
function smallest(values: readonly (number | undefined)[]): number | undefined {
  const defined = values.filter((v) => v !== undefined);
  return defined.length === 0 ? undefined : Math.min(...defined);
}

function cpuQuota(files: SystemFiles): number | undefined {
  return smallest(
    bindingFolders(files, 'cpu').map(({ folder, isV2 }) => {
      const number = (name: string): number => Number(files.read(join(folder, name)) ?? -1);
      const [quota, period] = isV2
        ? (files.read(join(folder, 'cpu.max')) ?? '').split(/\s+/).map(Number) // "max" gives NaN
        : [number('cpu.cfs_quota_us'), number('cpu.cfs_period_us')];
      return quota! > 0 && period! > 0 ? quota! / period! : undefined;
    }),
  );
}

/** A control group's limit, and what is left of it counting page cache that can be dropped as free. */
function memoryOf(
  files: SystemFiles,
  folder: string,
  isV2: boolean,
): { readonly limit: number; readonly left: number } | undefined {
  const bytes = (name: string): number => Number(files.read(join(folder, name)) ?? Number.NaN);
  const limit = bytes(isV2 ? 'memory.max' : 'memory.limit_in_bytes');
  // v2 says "max", v1 a number near 2^63 where there is no limit.
  if (!Number.isFinite(limit) || limit >= 2 ** 60) return undefined;
  const used = bytes(isV2 ? 'memory.current' : 'memory.usage_in_bytes') || 0;
  const statistics = files.read(join(folder, 'memory.stat')) ?? '';
  const cache = new RegExp(`^${isV2 ? '' : 'total_'}inactive_file (\\d+)$`, 'm').exec(statistics);
  return { limit, left: Math.max(0, limit - Math.max(0, used - Number(cache?.[1] ?? 0))) };
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
  const groups = bindingFolders(files, 'memory').map((g) => memoryOf(files, g.folder, g.isV2));
  const limitBytes = smallest(groups.map((g) => g?.limit));
  const left = smallest(groups.map((g) => g?.left));
  return {
    totalBytes: Math.min(machineTotal, limitBytes ?? machineTotal),
    availableBytes: Math.min(machineAvailable, left ?? machineAvailable),
    limitBytes,
  };
}
