/** The pages in a real Chromium, where there is one. `SCREENSHOTS=folder` leaves pictures of them there. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { type Browser, chromium, type Page } from 'playwright-core';
import { EchoModel } from './testing/echo-model.ts';
import { startTestServer } from './testing/running-server.ts';

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
  (path) => existsSync(path),
);
const SKIP = CHROMIUM === undefined && 'there is no Chromium (Debian: apt-get install chromium)';

const ANSWER = `# Hello

Some **bold** text, \`code\` and [a link](https://example.com/).

| a | b |
|---|---|
| 1 | 2 |

\`\`\`js
const x = 1 < 2;
\`\`\`

<img src="https://evil.example/x.png" onerror="document.title='owned'"><script>document.title='owned'</script>
- [ ] open
- [x] done ![a picture](https://evil.example/y.png)

[bad](javascript:alert(1)) <style>body { display: none }</style>
`;

async function screenshot(page: Page, name: string): Promise<void> {
  const folder = process.env.SCREENSHOTS;
  if (folder !== undefined) await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** Waits until the text of an element is as wanted. (The content policy keeps Playwright from doing so inside the page.) */
async function untilText(
  page: Page,
  selector: string,
  isWanted: (text: string) => boolean,
): Promise<void> {
  let text = '';
  for (let i = 0; i < 400; i++) {
    text = (await page.textContent(selector)) ?? '';
    if (isWanted(text)) return;
    await setTimeout(20);
  }
  assert.fail(`${selector} holds ${JSON.stringify(text)}`);
}

describe('the pages in a browser', { skip: SKIP }, () => {
  let browser: Browser;
  before(async () => {
    browser = await chromium.launch({ executablePath: CHROMIUM ?? '', args: ['--no-sandbox'] });
  });
  after(() => browser?.close());

  /** A page that must log no error and load nothing from elsewhere. */
  async function open(url: string, scheme: 'light' | 'dark' = 'light') {
    const context = await browser.newContext({
      colorScheme: scheme,
      viewport: { width: 1000, height: 760 },
    });
    const page = await context.newPage();
    const faults: string[] = [];
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('request', (request) => {
      const isOwn =
        request.url().startsWith(new URL(url).origin) || request.url().startsWith('data:');
      if (!isOwn) faults.push(`loads ${request.url()}`);
    });
    await page.goto(url);
    return { page, faults, [Symbol.asyncDispose]: () => context.close() };
  }

  async function ask(page: Page, text: string): Promise<void> {
    await page.fill('#input', text);
    await page.press('#input', 'Enter');
  }

  test('chat: shows markdown, and nothing that could do harm', async () => {
    const model = new EchoModel({ script: ANSWER });
    await using server = await startTestServer(model);
    for (const scheme of ['light', 'dark'] as const) {
      await using view = await open(server.url, scheme);
      const { page, faults } = view;
      await page.click('#settings summary');
      await page.fill('#max-tokens', String(Buffer.byteLength(ANSWER)));
      await page.click('h1');
      await ask(page, 'Show me.');
      await page.waitForSelector('.regenerate');
      const body = page.locator('.message.assistant .body');
      assert.equal(await body.locator('h1').textContent(), 'Hello');
      assert.equal(await body.locator('strong').textContent(), 'bold');
      assert.equal(await body.locator('td').count(), 2);
      assert.equal((await body.locator('pre').textContent())?.trim(), 'const x = 1 < 2;');
      assert.equal(await body.locator('img, script, style').count(), 0);
      const text = (await body.textContent()) ?? '';
      for (const shown of ['<img src=', '<script>', '☐ open', '☑ done', '![a picture](']) {
        assert.ok(text.includes(shown), `${shown} is not shown`);
      }
      const hrefs = await body
        .locator('a[href]')
        .evaluateAll((links) => links.map((link) => link.getAttribute('href')));
      assert.deepEqual(hrefs, ['https://example.com/']);
      assert.equal(await page.title(), 'hasten');
      assert.deepEqual(faults, []);
      await screenshot(page, `chat-${scheme}`);
    }
  });

  test('chat: stops, goes on, answers anew, and keeps settings', async () => {
    const model = new EchoModel({ script: 'and so on, ', delayMs: 5 });
    await using server = await startTestServer(model);
    await using view = await open(server.url);
    const { page, faults } = view;
    await page.click('#settings summary');
    await page.fill('#system', 'Be brief.');
    await page.fill('#temperature', '0');
    await page.click('h1');
    await ask(page, 'Talk.');
    await untilText(page, '.assistant .body', (text) => text.length > 20);
    await page.click('#stop');
    await page.waitForSelector('.figures');
    assert.match((await page.textContent('.figures')) ?? '', /stopped/);
    await page.click('.regenerate');
    await untilText(page, '.assistant .body', (text) => text.length > 5);
    await page.click('#stop');
    await page.waitForSelector('.regenerate');
    assert.equal(await page.locator('.assistant').count(), 1);
    assert.equal(model.samplings.at(-1)?.temperature, 0);
    assert.deepEqual(
      model.chats.map((turns) => turns.map(({ role }) => role)),
      [
        ['system', 'user'],
        ['system', 'user'],
      ],
    );
    await page.reload();
    assert.equal(await page.inputValue('#system'), 'Be brief.');
    assert.deepEqual(faults, []);
  });

  test('chat: a new conversation takes nothing of the one that was still being answered', async () => {
    const model = new EchoModel({ script: 'and so on, ', delayMs: 5 });
    await using server = await startTestServer(model);
    await using view = await open(server.url);
    const { page } = view;
    await ask(page, 'First.');
    await untilText(page, '.assistant .body', (text) => text.length > 20);
    await page.click('#clear');
    await page.waitForSelector('#empty');
    await ask(page, 'Second.');
    await untilText(page, '.assistant .body', (text) => text.length > 5);
    await page.click('#stop');
    assert.deepEqual(
      model.chats.at(-1)?.map(({ role, content }) => [role, content]),
      [['user', 'Second.']],
    );
  });

  test('chat: gives the question back when the server is gone, on a narrow screen too', async () => {
    const server = await startTestServer(new EchoModel());
    await using view = await open(server.url);
    const { page } = view;
    await page.setViewportSize({ width: 390, height: 700 });
    await untilText(page, '#model', (text) => text === 'echo');
    await page.click('#settings summary');
    await page.press('#system', 'Escape');
    assert.equal(await page.getAttribute('#settings', 'open'), null);
    await server[Symbol.asyncDispose]();
    await ask(page, 'Hello');
    await page.waitForSelector('.failure');
    assert.equal(await page.textContent('.failure'), 'The server does not answer.');
    assert.equal(await page.inputValue('#input'), 'Hello');
    const right = await page
      .locator('#settings summary')
      .evaluate((e) => e.getBoundingClientRect().right);
    assert.ok(right <= 390 && (await page.locator('#model').isVisible()));
  });

  test('chat: shows the error of the server and takes the question back', async () => {
    await using server = await startTestServer(new EchoModel({ failAfter: 3 }));
    await using view = await open(server.url);
    await ask(view.page, 'Hello');
    await view.page.waitForSelector('.failure');
    assert.match((await view.page.textContent('.failure')) ?? '', /internal error/);
  });

  test('both ask for a key where one is needed', async () => {
    const apiKeys = [{ name: 'a', secret: 'sk-test' }];
    await using server = await startTestServer(new EchoModel(), { apiKeys });
    await using view = await open(`${server.url}/dashboard`);
    const { page } = view;
    await page.waitForSelector('#key-form:not([hidden])');
    await page.fill('#api-key', 'sk-test');
    await page.click('#key-form button');
    await untilText(page, '#state', (text) => text === 'ready');
    await page.goto(server.url);
    await untilText(page, '#model', (text) => text === 'echo');
  });

  test('dashboard: shows the figures of the engine', async () => {
    await using server = await startTestServer(new EchoModel());
    for (const scheme of ['light', 'dark'] as const) {
      await using view = await open(`${server.url}/dashboard`, scheme);
      const { page, faults } = view;
      await untilText(page, '#state', (text) => text === 'ready');
      await untilText(page, '#kv-scale', (text) => text.includes('64 blocks'));
      assert.equal(await page.textContent('#kv-usage'), '25 %');
      assert.equal(await page.locator('#kv-map .used').count(), 16);
      assert.equal(await page.textContent('#accepted'), '63 %');
      assert.equal(await page.textContent('#max-seqs'), '4');
      assert.equal(await page.textContent('#offloaded'), '4 in memory, 9 on disk');
      assert.deepEqual(faults, []);
      await screenshot(page, `dashboard-idle-${scheme}`);
    }
  });
});
