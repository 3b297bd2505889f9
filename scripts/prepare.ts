/**
 * After an install in a checkout: builds `dist/`, with which the program starts sooner. Where the development packages were left out there is nothing
 * to build with, and the sources run as they are. Packing builds for itself.
 */
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const INSTALLS = ['ci', 'install'];

function hasBundler(): boolean {
  try {
    createRequire(import.meta.url).resolve('rolldown');
    return true;
  } catch {
    return false;
  }
}

if (INSTALLS.includes(process.env.npm_command ?? '') && hasBundler()) {
  const build = fileURLToPath(new URL('build.ts', import.meta.url));
  const { status } = spawnSync(process.execPath, [build, '--no-types'], { stdio: 'inherit' });
  process.exitCode = status ?? 1;
}
