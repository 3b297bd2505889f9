import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { makeZip } from '../../test/fixtures/hub/make-zip.ts';
import { Workspace } from '../../test/fixtures/hub/workspace.ts';
import { ArchiveError } from './errors.ts';
import { readZipDirectory, readZipMember } from './zip.ts';

const fixture = (name: string) =>
  fileURLToPath(new URL(`../../test/fixtures/hub/${name}`, import.meta.url));

async function memberBytes(path: string, name: string): Promise<Buffer> {
  const member = (await readZipDirectory(path)).get(name);
  assert(member !== undefined, `${name} in ${path}`);
  const chunks: Uint8Array[] = [];
  for await (const chunk of readZipMember(path, member)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

test('reads archives written by Python: deflated, stored, zip64 members, with a comment', async () => {
  const path = fixture('python-made.zip');
  assert.equal((await memberBytes(path, 'pkg/a.txt')).toString(), 'hello zip '.repeat(500));
  assert.deepEqual([...(await memberBytes(path, 'pkg/stored.bin'))], [...Array(256).keys()]);
  assert.equal((await memberBytes(path, 'pkg/wide.txt')).toString(), 'wide');
});

test('takes the directory from the zip64 end record where the plain one says so', async () => {
  using work = new Workspace();
  const bytes = fs.readFileSync(fixture('python-made-zip64.zip'));
  bytes.writeUInt32LE(0xffff_ffff, bytes.length - 22 + 12);
  bytes.writeUInt32LE(0xffff_ffff, bytes.length - 22 + 16);
  const path = work.write('wide.zip', bytes);
  assert.equal((await memberBytes(path, 'two.txt')).toString(), '2'.repeat(1000));
});

test('reads members larger than its buffers, stored and deflated, with 64-bit fields', async () => {
  using work = new Workspace();
  const bytes = Buffer.alloc(1_500_000, 'abcdefg');
  for (const stored of [true, false]) {
    const path = work.write('big.zip', makeZip([{ name: 'x', bytes, stored, zip64: true }]));
    assert(bytes.equals(await memberBytes(path, 'x')));
  }
  const empty = work.write(
    'empty.zip',
    makeZip([{ name: 'e', bytes: Buffer.alloc(0), stored: true }]),
  );
  assert.equal((await memberBytes(empty, 'e')).length, 0);
});

test('broken archives are refused with the file named', async () => {
  using work = new Workspace();
  const bytes = Buffer.from('some text that deflates '.repeat(40));
  const good = makeZip([{ name: 'x', bytes }]);
  const endAt = good.length - 22;
  const patched = (change: (copy: Buffer) => void): Buffer => {
    const copy = Buffer.from(good);
    change(copy);
    return copy;
  };
  const cases: Record<string, Buffer> = {
    empty: Buffer.alloc(0),
    text: Buffer.from('<html>not a zip</html>'.repeat(9)),
    'cut off': good.subarray(0, good.length - 30),
    'wrong checksum': makeZip([{ name: 'x', bytes, wrongCrc: true }]),
    'says less': makeZip([{ name: 'x', bytes, claimedBytes: 10 }]),
    'says more': makeZip([{ name: 'x', bytes, claimedBytes: bytes.length + 1 }]),
    'huge directory': patched((copy) => copy.writeUInt32LE(0x7fff_ffff, endAt + 12)),
    'directory elsewhere': patched((copy) => copy.writeUInt32LE(endAt + 5, endAt + 16)),
    'member past the end': patched((copy) => copy.writeUInt32LE(0x00ff_ffff, endAt - 47 + 20)),
    'no local header': patched((copy) => copy.writeUInt32LE(1, 0)),
    'damaged data': patched((copy) => copy.fill(0xff, 36, 60)),
    'zip64 without values': patched((copy) => copy.writeUInt32LE(0xffff_ffff, endAt - 47 + 42)),
  };
  for (const [name, content] of Object.entries(cases)) {
    const path = work.write('bad.zip', content);
    await assert.rejects(
      memberBytes(path, 'x'),
      (error: unknown) => error instanceof ArchiveError && error.message.startsWith(path),
      name,
    );
  }
});
