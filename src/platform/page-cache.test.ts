import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { skipNative } from '../../test/native-models.ts';
import { dropFromPageCache } from './page-cache.ts';

test('a file that was let go of is read again as it was', { skip: skipNative }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-page-cache-'));
  try {
    const file = join(folder, 'file');
    const bytes = Buffer.alloc(3 << 20, 'weights');
    writeFileSync(file, bytes, { flush: true });
    dropFromPageCache(file);
    assert.ok(readFileSync(file).equals(bytes));
    assert.throws(() => dropFromPageCache(join(folder, 'none')), { code: 'ENOENT' });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
