import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { cpuTopology, memoryInfo, parseCpuList } from './topology.ts';

const GIB = 2 ** 30;

/** Runs `check` with a folder that holds these files, paths relative to `/`. */
function withSystem(files: Record<string, string>, check: (root: string) => void): void {
  const root = mkdtempSync(join(tmpdir(), 'hasten-system-'));
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), `${text}\n`);
    }
    check(root);
  } finally {
    rmSync(root, { recursive: true });
  }
}

/** Two cores of two threads each, numbered as Linux does on most PCs. */
const TWO_BY_TWO = Object.fromEntries(
  [0, 1, 2, 3].map((cpu) => [
    `sys/devices/system/cpu/cpu${cpu}/topology/core_cpus_list`,
    `${cpu % 2},${(cpu % 2) + 2}`,
  ]),
);

describe('topology', () => {
  it('parses CPU lists', () => {
    assert.deepEqual(parseCpuList('0-3,8,10-11'), [0, 1, 2, 3, 8, 10, 11]);
    assert.deepEqual(parseCpuList('5'), [5]);
    assert.deepEqual(parseCpuList(''), []);
    assert.deepEqual(parseCpuList('x,2-1,3'), [3]);
  });

  it('counts hyper-threads of a core once', () => {
    const files = { ...TWO_BY_TWO, 'proc/self/status': 'Name: x\nCpus_allowed_list:\t0-3' };
    withSystem(files, (root) => {
      const topology = cpuTopology({ root });
      assert.deepEqual(topology.logicalCpus, [0, 1, 2, 3]);
      assert.deepEqual(topology.cores, [
        [0, 2],
        [1, 3],
      ]);
      assert.equal(topology.usableCores, 2);
    });
  });

  it('stays within the affinity mask', () => {
    const files = { ...TWO_BY_TWO, 'proc/self/status': 'Cpus_allowed_list:\t1,3' };
    withSystem(files, (root) => {
      assert.deepEqual(cpuTopology({ root }).cores, [[1, 3]]);
      assert.equal(cpuTopology({ root }).usableCores, 1);
    });
  });

  it('heeds the smallest quota of the group and its ancestors, v2', () => {
    const files = {
      ...TWO_BY_TWO,
      'proc/self/status': 'Cpus_allowed_list:\t0-3',
      'proc/self/cgroup': '0::/a/b',
      'sys/fs/cgroup/cpu.max': 'max 100000',
      'sys/fs/cgroup/a/cpu.max': '150000 100000',
      'sys/fs/cgroup/a/b/cpu.max': '40000 10000',
    };
    withSystem(files, (root) => {
      assert.equal(cpuTopology({ root }).quotaCpus, 1.5);
      assert.equal(cpuTopology({ root }).usableCores, 1);
    });
  });

  it('heeds a quota in v1, also where the group path is the host’s', () => {
    const files = {
      'proc/self/status': 'Cpus_allowed_list:\t0-7',
      'proc/self/cgroup': '4:cpu,cpuacct:/docker/1234\n3:memory:/docker/1234',
      'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '300000',
      'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000',
    };
    withSystem(files, (root) => {
      assert.equal(cpuTopology({ root }).quotaCpus, 3);
      assert.equal(cpuTopology({ root }).usableCores, 3);
    });
    const unlimited = { ...files, 'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1' };
    withSystem(unlimited, (root) => assert.equal(cpuTopology({ root }).quotaCpus, undefined));
  });

  it('never answers less than one core', () => {
    const files = { 'proc/self/cgroup': '0::/', 'sys/fs/cgroup/cpu.max': '10000 100000' };
    withSystem(files, (root) => assert.equal(cpuTopology({ root }).usableCores, 1));
  });

  it('falls back on what Node says where there is no /proc', () => {
    withSystem({}, (root) => {
      assert.equal(cpuTopology({ root }).cores.length, availableParallelism());
      const memory = memoryInfo({ root });
      assert.equal(memory.totalBytes, totalmem());
      assert.ok(memory.availableBytes > 0);
      assert.equal(memory.limitBytes, undefined);
    });
  });

  it('takes memory limits of control groups, page cache counting as free', () => {
    const meminfo = `MemTotal: ${16 * 2 ** 20} kB\nMemFree: 1 kB\nMemAvailable: ${8 * 2 ** 20} kB`;
    const v2 = {
      'proc/meminfo': meminfo,
      'proc/self/cgroup': '0::/a',
      'sys/fs/cgroup/a/memory.max': String(4 * GIB),
      'sys/fs/cgroup/a/memory.current': String(3 * GIB),
      'sys/fs/cgroup/a/memory.stat': `anon 5\ninactive_file ${2 * GIB}`,
    };
    withSystem(v2, (root) => {
      assert.deepEqual(memoryInfo({ root }), {
        totalBytes: 4 * GIB,
        availableBytes: 3 * GIB,
        limitBytes: 4 * GIB,
      });
    });
    const v1 = {
      'proc/meminfo': meminfo,
      'proc/self/cgroup': '9:memory:/x',
      'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712',
      'sys/fs/cgroup/memory/x/memory.limit_in_bytes': String(2 * GIB),
      'sys/fs/cgroup/memory/x/memory.usage_in_bytes': String(GIB),
    };
    withSystem(v1, (root) => {
      assert.deepEqual(memoryInfo({ root }), {
        totalBytes: 2 * GIB,
        availableBytes: GIB,
        limitBytes: 2 * GIB,
      });
    });
    const none = { 'proc/meminfo': meminfo, 'proc/self/cgroup': '0::/' };
    withSystem(none, (root) => {
      assert.equal(memoryInfo({ root }).availableBytes, 8 * GIB);
      assert.equal(memoryInfo({ root }).limitBytes, undefined);
    });
  });

  it('answers sensibly on this machine', () => {
    const topology = cpuTopology();
    assert.ok(topology.usableCores >= 1);
    assert.equal(topology.cores.flat().length, topology.logicalCpus.length);
    const memory = memoryInfo();
    assert.ok(memory.availableBytes > 0 && memory.availableBytes <= memory.totalBytes);
  });
});
