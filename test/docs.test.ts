/**
 * The documents say what is so: links lead somewhere, the tree names every folder, the tables name every command, and what README tells people to type
 * works. `npm ci`, `npm test` and `npm start` are run by .ci/run and serve.test.ts.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { GRAPH_PASSES } from '../src/graph/lower-graph.ts';
import { ALIASES, EMBEDDED_ALIAS } from '../src/hub/aliases.ts';
import { hubEnvironmentFrom } from '../src/hub/environment.ts';
import { ModelUnavailableError } from '../src/hub/errors.ts';
import { resolveModel } from '../src/hub/resolve.ts';
import { PACKED_FORMATS } from '../src/kernels/packed-format.ts';
import { ARCHITECTURES } from '../src/models/registry.ts';
import { chooseTarget } from '../src/runtime/target-choice.ts';
import { REPOSITORY, runHasten, TEST_ENVIRONMENT } from './run-hasten.ts';

const read = (file: string): string => readFileSync(path.join(REPOSITORY, file), 'utf8');
const DOCUMENTS = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...globSync('docs/*.md', { cwd: REPOSITORY }),
];
const README = read('README.md');
const ARCHITECTURE = read('docs/architecture.md');

/** The contents of the fenced blocks of one language. */
function codeBlocks(text: string, language: string): string[] {
  return [...text.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)]
    .filter(([, found]) => found === language)
    .map(([, , code]) => code!);
}

/** Links outside code, as they stand. */
function links(text: string): string[] {
  const prose = text.replace(/^```[\s\S]*?^```$/gm, '').replace(/`[^`\n]*`/g, '``');
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!);
}

/** What a heading is called in a link, by GitHub's rule. */
function anchors(text: string): string[] {
  return [...text.replace(/^```[\s\S]*?^```$/gm, '').matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

describe('links', () => {
  for (const document of DOCUMENTS) {
    it(`of ${document} lead somewhere`, () => {
      for (const link of links(read(document))) {
        if (/^https?:/.test(link)) continue;
        const [file = '', anchor] = link.split('#');
        const target = path.join(path.dirname(document), file || path.basename(document));
        assert.ok(existsSync(path.join(REPOSITORY, target)), `${link}: there is no ${target}`);
        if (anchor === undefined) continue;
        assert.ok(anchors(read(target)).includes(anchor), `${link}: no such heading in ${target}`);
      }
    });
  }
});

describe('README', () => {
  it('names every folder of the source in its tree', () => {
    const tree = codeBlocks(README, '').find((block) => block.includes('src/'));
    const named = [...tree!.matchAll(/^ {2}(\w+)\//gm)].map(([, folder]) => folder!);
    const folders = globSync('src/*/', { cwd: REPOSITORY }).map((folder) => path.basename(folder));
    assert.deepEqual(named.sort(), folders.sort());
  });

  it('names every command', async () => {
    const { stdout } = await runHasten(['--help']);
    const commands = [...stdout.split('Commands:')[1]!.matchAll(/^ {2}(\w+) {2,}/gm)];
    assert.ok(commands.length > 10);
    for (const [, name] of commands) {
      assert.match(README, new RegExp(`^\\| .*\`${name}\`.* \\|`, 'm'), `no row for ${name}`);
    }
  });

  it('names every alias and every format that runs', () => {
    for (const alias of [...ALIASES.keys(), EMBEDDED_ALIAS])
      assert.ok(README.includes(`\`${alias}\``), alias);
    for (const dtype of Object.keys(PACKED_FORMATS)) {
      assert.ok(README.includes(dtype.toUpperCase()), `README does not speak of ${dtype}`);
    }
  });
});

describe('docs/architecture.md', () => {
  it('names every graph pass in order', () => {
    const rows = [...ARCHITECTURE.matchAll(/^\| ([a-z-]+) \| .* \| \d+ \|$/gm)].map(
      ([, name]) => name,
    );
    assert.deepEqual(
      rows,
      GRAPH_PASSES.map(({ name }) => name),
    );
  });

  it('names every folder of the source', () => {
    for (const folder of globSync('src/*/', { cwd: REPOSITORY })) {
      assert.ok(ARCHITECTURE.includes(`${path.basename(folder)}/`), folder);
    }
  });

  it('can say that an architecture is a file', () => {
    for (const { name } of ARCHITECTURES) {
      assert.ok(existsSync(path.join(REPOSITORY, `src/models/architectures/${name}.ts`)), name);
    }
  });
});

/** Commands that do not end by themselves, and where they are tested. */
const TESTED_ELSEWHERE: Readonly<Record<string, string>> = { serve: 'serve.test.ts' };

describe('what README tells people to type', () => {
  const isRequired = process.env.HASTEN_REQUIRE_MODELS === '1';
  let missing: string | undefined;

  before(async () => {
    try {
      const env = hubEnvironmentFrom(process.env);
      await resolveModel('smollm2', { env, offline: !isRequired });
    } catch (error) {
      if (isRequired || !(error instanceof ModelUnavailableError)) throw error;
      missing = `smollm2 is not in the cache, and HASTEN_REQUIRE_MODELS is not 1: ${error.message}`;
    }
  });

  const lines = codeBlocks(README, 'sh').flatMap((block) => block.split('\n'));
  for (const line of lines.filter((text) => text.startsWith('npx hasten '))) {
    const args = [...line.slice('npx hasten '.length).matchAll(/"([^"]*)"|(\S+)/g)].map(
      ([, quoted, plain]) => quoted ?? plain!,
    );
    if (TESTED_ELSEWHERE[args[0]!] !== undefined) continue;
    it(`${line}`, async (t) => {
      if (missing !== undefined) return t.skip(missing);
      if (args[0] === 'bench' && chooseTarget().target === 'reference') {
        return t.skip('the reference target takes minutes for it');
      }
      const { code, stdout, stderr } = await runHasten(args);
      assert.equal(code, 0, stderr);
      assert.notEqual(stdout, '');
      if (args.includes('--json')) JSON.parse(stdout);
    });
  }

  it('the five lines of the library', async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const [code] = codeBlocks(README, 'ts');
    const entry = path.join(REPOSITORY, 'src/index.ts');
    const program = code!.replace("from 'hasten'", `from ${JSON.stringify(entry)}`);
    assert.notEqual(program, code);
    const args = ['--input-type=module-typescript', '--eval', program];
    const env = { ...process.env, ...TEST_ENVIRONMENT };
    const { stdout } = await promisify(execFile)(process.execPath, args, { env });
    assert.ok(stdout.length > 10, stdout);
  });
});
