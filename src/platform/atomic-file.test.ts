import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import {
  removeStaleTemporaries,
  removeStaleTemporariesIn,
  writeFileAtomic,
  writeFolderAtomic,
} from './atomic-file.ts';

describe('atomic file', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-atomic-'));
  after(() => rmSync(folder, { recursive: true }));

  it('makes missing folders, writes, replaces and leaves nothing else', async () => {
    const path = join(folder, 'a', 'b', 'file');
    await writeFileAtomic(path, 'one');
    assert.equal(readFileSync(path, 'utf8'), 'one');
    await writeFileAtomic(path, Uint8Array.of(1, 2));
    assert.deepEqual([...readFileSync(path)], [1, 2]);
    const result = await writeFileAtomic(path, async (file) => {
      await file.write('three');
      assert.deepEqual([...readFileSync(path)], [1, 2], 'the old file while writing');
      return 42;
    });
    assert.equal(result, 42);
    assert.equal(readFileSync(path, 'utf8'), 'three');
    assert.deepEqual(readdirSync(join(folder, 'a', 'b')), ['file']);
  });

  it('keeps the old file and removes the temporary when the producer fails', async () => {
    const path = join(folder, 'failing', 'file');
    await writeFileAtomic(path, 'old');
    const failing = writeFileAtomic(path, async (file) => {
      await file.write('half');
      throw new RangeError('no');
    });
    await assert.rejects(failing, RangeError);
    assert.equal(readFileSync(path, 'utf8'), 'old');
    assert.deepEqual(readdirSync(join(folder, 'failing')), ['file']);
  });

  it('takes a name as long as the file system does', async () => {
    const path = join(folder, 'long', 'n'.repeat(255));
    await writeFileAtomic(path, 'x');
    assert.deepEqual(readdirSync(join(folder, 'long')), ['n'.repeat(255)]);
  });

  it('removes the temporary when the target cannot be replaced', async () => {
    const path = join(folder, 'occupied', 'folder');
    await writeFileAtomic(join(path, 'inside'), 'x');
    await assert.rejects(writeFileAtomic(path, 'y'));
    assert.deepEqual(readdirSync(join(folder, 'occupied')), ['folder']);
  });

  it('ends as one whole content when written twice at once', async () => {
    const path = join(folder, 'raced', 'file');
    const contents = ['a', 'b', 'c', 'd'].map((c) => c.repeat(100_000));
    await Promise.all(contents.map((content) => writeFileAtomic(path, content)));
    assert.ok(contents.includes(readFileSync(path, 'utf8')));
    assert.deepEqual(readdirSync(join(folder, 'raced')), ['file']);
  });

  it('survives a kill while writing, and the next write tidies up', async () => {
    const path = join(folder, 'killed', 'file');
    await writeFileAtomic(path, 'old');
    const script = `
      import { writeFileAtomic } from ${JSON.stringify(new URL('atomic-file.ts', import.meta.url).href)};
      await writeFileAtomic(${JSON.stringify(path)}, async (file) => {
        await file.write('half');
        process.stdout.write('writing');
        setInterval(() => {}, 1000);
        await new Promise(() => {});
      });`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script]);
    await once(child.stdout, 'data');
    assert.equal(await removeStaleTemporaries(path), 0, 'its writer lives');
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal(readFileSync(path, 'utf8'), 'old');
    assert.equal(readdirSync(join(folder, 'killed')).length, 2);
    await writeFileAtomic(path, 'new');
    assert.deepEqual(readdirSync(join(folder, 'killed')), ['file']);
  });

  it('removes temporaries a day old, and no file that is not one of its own', async () => {
    const names = [
      `.file.${process.pid}-0123456789abcdef.tmp`,
      '.file.12-short.tmp',
      '.filex.1-0123456789abcdef.tmp',
    ];
    for (const name of names) {
      writeFileSync(join(folder, name), '');
      utimesSync(join(folder, name), 1e9, 1e9);
    }
    assert.equal(await removeStaleTemporaries(join(folder, 'file')), 1);
    const left = readdirSync(folder).filter((name) => name.startsWith('.'));
    assert.deepEqual(left.sort(), [names[1], names[2]].sort());
    assert.equal(await removeStaleTemporariesIn(folder), 1);
    const others = readdirSync(folder).filter((name) => name.startsWith('.'));
    assert.deepEqual(others, [names[1]]);
  });
});

describe('atomic folder', () => {
  const parent = mkdtempSync(join(tmpdir(), 'hasten-atomic-folder-'));
  after(() => rmSync(parent, { recursive: true }));
  const path = join(parent, 'model');

  it('is not there before all of it is, nor anything else when that fails', async () => {
    await assert.rejects(
      writeFolderAtomic(path, async (folder) => {
        writeFileSync(join(folder, 'half'), 'x');
        throw new RangeError('no');
      }),
      RangeError,
    );
    assert.deepEqual(readdirSync(parent), []);
    const result = await writeFolderAtomic(path, async (folder) => {
      writeFileSync(join(folder, 'config.json'), '{}');
      assert.ok(!existsSync(path));
      return 42;
    });
    assert.equal(result, 42);
    assert.deepEqual(readdirSync(parent), ['model']);
    assert.deepEqual(readdirSync(path), ['config.json']);
    rmSync(path, { recursive: true });
  });

  it('survives a kill while it is filled, and the next write tidies up', async () => {
    const script = `
      import { writeFileSync } from 'node:fs';
      import { writeFolderAtomic } from ${JSON.stringify(new URL('atomic-file.ts', import.meta.url).href)};
      await writeFolderAtomic(${JSON.stringify(path)}, async (folder) => {
        writeFileSync(folder + '/half', 'x');
        process.stdout.write('writing');
        setInterval(() => {}, 1000);
        await new Promise(() => {});
      });`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script]);
    await once(child.stdout, 'data');
    assert.equal(await removeStaleTemporaries(path), 0, 'its writer lives');
    child.kill('SIGKILL');
    await once(child, 'exit');
    const [left, ...others] = readdirSync(parent);
    assert.deepEqual(others, []);
    assert.match(left!, /^\.model\..*\.tmp$/);
    await writeFolderAtomic(path, async (folder) => writeFileSync(join(folder, 'whole'), ''));
    assert.deepEqual(readdirSync(parent), ['model']);
  });
});
