/** Which format of calls a template speaks. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { toolCallStart, toolStyleOf } from './tool-prompt.ts';

test('the template says how its model calls functions', () => {
  const styles = {
    'qwen3.jinja': 'hermes',
    'llama3-tools.jinja': 'json',
    'glm4.jinja': 'glm',
    // These know nothing of tools: they are told of them in the Hermes format.
    'smollm2.jinja': 'hermes',
    'gemma3.jinja': 'hermes',
    'chatml.jinja': 'hermes',
  };
  const folder = new URL('../../test/fixtures/chat-template/', import.meta.url);
  for (const [file, style] of Object.entries(styles)) {
    assert.equal(toolStyleOf(readFileSync(new URL(file, folder), 'utf8')), style, file);
  }
  const mistral = '{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}[TOOL_CALLS][';
  assert.equal(toolStyleOf(mistral), 'mistral');
  const keyed = '{% for tool in tools %}{% endfor %}<tool_call>{name}\n<arg_key>{key}</arg_key>';
  assert.equal(toolStyleOf(keyed), 'glm-keys');
});

test('an answer that must call begins as the format does', () => {
  assert.equal(toolCallStart('mistral', 'a'), '[TOOL_CALLS][{"name": "a", "arguments": ');
  assert.equal(toolCallStart('mistral', null), '[TOOL_CALLS][{"name": "');
  assert.equal(toolCallStart('glm', 'a'), 'a\n');
  assert.equal(toolCallStart('glm', null), '');
  assert.equal(toolCallStart('glm-keys', 'a'), '<tool_call>a\n');
  assert.equal(toolCallStart('glm-keys', null), '<tool_call>');
});
