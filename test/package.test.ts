/** What `npm pack` makes installs into an empty folder and runs there, from the command line and as a library. */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { REPOSITORY } from './run-hasten.ts';

const run = promisify(execFile);
const folder = mkdtempSync(join(tmpdir(), 'hasten-package-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Without what npm hands down to its scripts, which would make the inner npm work on this repository. */
const env = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) =>
      !/^(npm_|INIT_CWD$|NODE_OPTIONS$)/i.test(name) ||
      /^npm_config_(registry|cache|cafile|proxy|https_proxy)$/i.test(name),
  ),
);
// npm scripts of the build find the Node that runs this test.
env.PATH = `${dirname(process.execPath)}:${env.PATH ?? ''}`;

test('the packed package installs and runs in an empty folder', {
  skip: missingNpm(),
}, async (t) => {
  const packed = await run('npm', ['pack', '--json', '--pack-destination', folder], {
    cwd: REPOSITORY,
    env,
  });
  const listing = JSON.parse(packed.stdout.slice(packed.stdout.indexOf('[\n'))) as {
    filename: string;
    files: { path: string }[];
  }[];
  const [{ filename, files }] = listing as [(typeof listing)[0]];
  const paths = files.map(({ path }) => path);
  assert.ok(paths.includes('dist/index.js') && paths.includes('dist/index.d.ts'));
  assert.ok(paths.includes('dist/server/page/index.html'));
  assert.deepEqual(
    paths.filter((path) => /\.test\.|^src\/|testing\//.test(path)),
    [],
  );

  const project = join(folder, 'project');
  mkdirSync(project);
  writeFileSync(
    join(project, 'package.json'),
    '{ "name": "project", "private": true, "type": "module" }',
  );
  const flags = ['--no-audit', '--no-fund', '--prefer-offline', '--fetch-retries=1'];
  try {
    await run('npm', ['install', join(folder, filename), ...flags], { cwd: project, env });
  } catch (error) {
    const { stderr } = error as { stderr: string };
    if (!/E?(NOTFOUND|CONNREFUSED|AI_AGAIN|TIMEDOUT|NETUNREACH|CONNRESET|NOTCACHED)/.test(stderr))
      throw error;
    t.skip(`the package registry cannot be reached: ${stderr.split('\n')[0]}`);
    return;
  }

  const hasten = join(project, 'node_modules/.bin/hasten');
  const args = [
    'run',
    'tiny',
    '--prompt',
    'Hello',
    '--max-tokens',
    '4',
    '--temperature',
    '0',
    '--json',
  ];
  const { stdout } = await run(hasten, args, { cwd: project, env });
  const { tokenIds } = JSON.parse(stdout) as { tokenIds: number[] };
  assert.equal(tokenIds.length, 4);

  const script = `
    import { load } from 'hasten';
    await using model = await load('tiny');
    const ids = [];
    for await (const part of model.complete('Hello', { temperature: 0, maxTokens: 4 })) ids.push(...part.tokenIds);
    console.log(JSON.stringify(ids));
  `;
  writeFileSync(join(project, 'use.js'), script);
  const used = await run(process.execPath, ['use.js'], { cwd: project, env });
  assert.deepEqual(JSON.parse(used.stdout), tokenIds);
});

function missingNpm(): string | false {
  return spawnSync('npm', ['--version']).status === 0 ? false : 'there is no npm';
}
