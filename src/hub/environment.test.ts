import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hubEnvironmentFrom } from './environment.ts';

const home = { HOME: '/home/me' };

test('the cache folder follows the precedence of huggingface_hub', () => {
  const all = {
    ...home,
    HF_HUB_CACHE: '/a',
    HUGGINGFACE_HUB_CACHE: '/b',
    HF_HOME: '/c',
    XDG_CACHE_HOME: '/d',
  };
  const cacheOf = (variables: Record<string, string | undefined>) =>
    hubEnvironmentFrom(variables, '/work').hubCacheDir;
  assert.equal(cacheOf(all), '/a');
  assert.equal(cacheOf({ ...all, HF_HUB_CACHE: '' }), '/b');
  assert.equal(cacheOf({ ...home, HF_HOME: '/c', XDG_CACHE_HOME: '/d' }), '/c/hub');
  assert.equal(cacheOf({ ...home, XDG_CACHE_HOME: '/d' }), '/d/huggingface/hub');
  assert.equal(cacheOf(home), '/home/me/.cache/huggingface/hub');
  assert.equal(cacheOf({ ...home, HF_HOME: '~/models' }), '/home/me/models/hub');
  assert.equal(cacheOf({ ...home, HF_HUB_CACHE: 'here' }), '/work/here');
  assert.equal(hubEnvironmentFrom(all, '/work').otherCacheDir, '/c/hasten');
});

test('endpoint, token and offline switch are read, defaults filled in', () => {
  const plain = hubEnvironmentFrom(home, '/work');
  assert.equal(plain.hfEndpoint, 'https://huggingface.co');
  assert.equal(plain.modelscopeEndpoint, 'https://www.modelscope.cn');
  assert.equal(plain.hfToken, undefined);
  assert.equal(plain.hfTokenPath, '/home/me/.cache/huggingface/token');
  assert.equal(plain.offline, false);
  const set = hubEnvironmentFrom(
    {
      ...home,
      HF_ENDPOINT: 'https://mirror.example/',
      HF_TOKEN: ' hf_x ',
      HF_HUB_OFFLINE: '1',
      HF_HUB_DISABLE_IMPLICIT_TOKEN: 'true',
      MODELSCOPE_DOMAIN: 'modelscope.ai',
    },
    '/work',
  );
  assert.equal(set.hfEndpoint, 'https://mirror.example');
  assert.equal(set.hfToken, 'hf_x');
  assert.equal(set.hfTokenPath, undefined);
  assert.equal(set.modelscopeEndpoint, 'https://modelscope.ai');
  assert.equal(set.offline, true);
});
