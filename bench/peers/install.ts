/**
 * Puts llama.cpp beside the benchmarks: the CPU build that npm carries (all instruction set variants in one package, no install scripts), and
 * on request llama-bench compiled for this very machine from the sources that npm's node-llama-cpp carries. Knows nothing of measuring.
 *
 *   node bench/peers/install.ts            the npm build, into bench/peers/node_modules
 *   node bench/peers/install.ts --native   llama-bench too, compiled with -march=native into hasten's cache folder (about 10 minutes; cmake, g++)
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { runChild } from '../lib/child.ts';
import { benchFolder, PEERS } from '../lib/paths.ts';

const PREBUILT = '@node-llama-cpp/linux-x64';

/** The pinned version of node-llama-cpp, which fixes the version of llama.cpp. */
export function pinnedVersion(): string {
  const manifest = JSON.parse(readFileSync(join(PEERS, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  return manifest.dependencies[PREBUILT]!;
}

/**
 * Folder with llama.cpp's shared objects and the addon, installed if it is not there yet.
 * @throws {ChildFailedError} if npm cannot install it
 */
export async function prebuiltLlama(): Promise<string> {
  const folder = join(PEERS, 'node_modules', PREBUILT, 'bins', 'linux-x64');
  if (!existsSync(folder)) {
    await runChild('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: PEERS });
  }
  return folder;
}

/**
 * Path of a llama-bench compiled for this machine, of the same llama.cpp version as the npm build.
 * @param numJobs compilers at once
 * @throws {ChildFailedError} if npm, cmake or the compiler fail
 */
export async function nativeLlamaBench(numJobs = availableParallelism()): Promise<string> {
  const folder = join(benchFolder(), `llama.cpp-${pinnedVersion()}`);
  const program = join(folder, 'build', 'bin', 'llama-bench');
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  const source = join(folder, 'source');
  if (!existsSync(source)) {
    const packed = await runChild('npm', ['pack', `node-llama-cpp@${pinnedVersion()}`], {
      cwd: folder,
    });
    const bundle = 'package/llama/gitRelease.bundle';
    await runChild('tar', ['xzf', packed.trim().split('\n').at(-1)!, bundle], { cwd: folder });
    await runChild('git', ['clone', '--quiet', bundle, source], { cwd: folder });
  }
  const build = dirname(dirname(program));
  const flags = {
    CMAKE_BUILD_TYPE: 'Release',
    GGML_NATIVE: 'ON',
    BUILD_SHARED_LIBS: 'OFF',
    LLAMA_CURL: 'OFF',
    LLAMA_OPENSSL: 'OFF',
    LLAMA_BUILD_TESTS: 'OFF',
    LLAMA_BUILD_EXAMPLES: 'OFF',
    LLAMA_BUILD_SERVER: 'OFF',
  };
  const defines = Object.entries(flags).map(([name, value]) => `-D${name}=${value}`);
  await runChild('cmake', ['-S', source, '-B', build, ...defines]);
  await runChild(
    'cmake',
    ['--build', build, '--target', 'llama-bench', '--parallel', `${numJobs}`],
    {
      timeoutMs: 2 * 3_600_000,
    },
  );
  return program;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { native: { type: 'boolean' }, jobs: { type: 'string' } },
  });
  console.log(await prebuiltLlama());
  if (values.native) {
    console.log(
      await nativeLlamaBench(values.jobs === undefined ? undefined : Number(values.jobs)),
    );
  }
}
