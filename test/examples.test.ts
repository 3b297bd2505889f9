/** Every file in examples/ runs, on the model that the repository carries. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { REPOSITORY, startHasten, TEST_ENVIRONMENT } from './run-hasten.ts';

async function run(file: string, ...args: string[]): Promise<string> {
  const path = join(REPOSITORY, 'examples', file);
  const { stdout } = await promisify(execFile)(process.execPath, [path, ...args], {
    env: { ...process.env, ...TEST_ENVIRONMENT },
  });
  return stdout;
}

/** Examples by what they need. */
const RUNS: Readonly<Record<string, () => Promise<string>>> = {
  'chat.ts': () => run('chat.ts', 'tiny'),
  'complete.ts': () => run('complete.ts', 'tiny'),
  'tokenize.ts': () => run('tokenize.ts', 'tiny', 'Hello'),
  'openai-client.ts': async () => {
    const server = startHasten(['serve', 'tiny', '--port', '0', '--log-level', 'silent']);
    const [banner] = await once(server.stdout!, 'data');
    const url = /at (http:\S+)/.exec(String(banner))?.[1];
    try {
      return await run('openai-client.ts', `${url}/v1`);
    } finally {
      server.kill('SIGTERM');
      await once(server, 'close');
    }
  },
};

for (const file of readdirSync(join(REPOSITORY, 'examples')).filter((name) =>
  name.endsWith('.ts'),
)) {
  test(`examples/${file} runs`, async () => {
    assert.ok(RUNS[file], `examples/${file} is not run by this test: add it here`);
    assert.notEqual((await RUNS[file]()).trim(), '');
  });
}
