import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { NOBODY, Workspace } from '../../test/fixtures/hub/workspace.ts';
import {
  cachedCommit,
  publishBlob,
  type RepoFolder,
  repoFolder,
  snapshotFiles,
  writeRef,
} from './cache.ts';
import { CacheError } from './errors.ts';

const commit = 'a'.repeat(40);

function repoWithBlob(space: Workspace): RepoFolder {
  const repo = repoFolder(space.env(NOBODY), 'hf', 'user/repo');
  space.write('hf/hub/models--user--repo/blobs/b1', 'bytes');
  return repo;
}

test('a published blob is a relative link, replaced in one step, nested paths included', async () => {
  using space = new Workspace();
  const repo = repoWithBlob(space);
  const link = await publishBlob(repo, commit, 'sub/dir/x.gguf', 'b1');
  assert.equal(fs.readlinkSync(link), '../../../../blobs/b1');
  fs.writeFileSync(join(repo.blobsDir, 'b2'), 'other');
  await publishBlob(repo, commit, 'sub/dir/x.gguf', 'b2');
  assert.equal(fs.readFileSync(link, 'utf8'), 'other');
  assert.deepEqual([...snapshotFiles(repo, commit).keys()], ['sub/dir/x.gguf']);
});

test('where symlinks are not allowed the file itself is in the snapshot', async () => {
  using space = new Workspace();
  const repo = repoWithBlob(space);
  const refuse = (): Promise<void> =>
    Promise.reject(Object.assign(new Error('not permitted'), { code: 'EPERM' }));
  const path = await publishBlob(repo, commit, 'x.gguf', 'b1', refuse);
  assert(fs.lstatSync(path).isFile());
  const file = snapshotFiles(repo, commit).get('x.gguf');
  assert.deepEqual([file?.sizeBytes, file?.blobName], [5, undefined]);
});

test('paths that leave the snapshot are refused', async () => {
  using space = new Workspace();
  const repo = repoWithBlob(space);
  for (const path of ['../x', '/x', 'a/../../x', 'a//b', '', 'a\\..\\b', 'C:x', 'a\0b']) {
    await assert.rejects(publishBlob(repo, commit, path, 'b1'), CacheError, path);
  }
});

test('refs map branch names, slashes included, to commits; a hostile ref is ignored', async () => {
  using space = new Workspace();
  const repo = repoWithBlob(space);
  await writeRef(repo, 'refs/pr/1', commit);
  assert.equal(cachedCommit(repo, 'refs/pr/1'), commit);
  assert.equal(cachedCommit(repo, commit), commit);
  assert.equal(cachedCommit(repo, 'none'), undefined);
  await writeRef(repo, 'evil', '../../../../etc');
  assert.equal(cachedCommit(repo, 'evil'), undefined);
});
