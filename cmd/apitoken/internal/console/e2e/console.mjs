// Uses the console in Chromium as a person does: by keyboard, in light and dark, on a phone; axe checks each page. The
// environment has CONSOLE (address), PASSWORD of the user "ann", TOKEN_ID of a live token, FINDING_ID of an open finding, and
// CHROMIUM (path). With SCREENSHOTS (a folder), pictures of some pages are written there.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const { CONSOLE, PASSWORD, TOKEN_ID, FINDING_ID, CHROMIUM, SCREENSHOTS } = process.env;

const pages = [
  ['overview', '/'], ['tokens', '/tokens'], ['tokens sorted', '/tokens?sort=uses'], ['tokens none', '/tokens?q=nothing-has-this'],
  ['token', `/tokens/${TOKEN_ID}`], ['confirm revoke', `/tokens/${TOKEN_ID}/revoke`], ['confirm suspend', `/tokens/${TOKEN_ID}/suspend`],
  ['roles', '/roles?watched_for=0'], ['role', '/roles/billing?watched_for=0'], ['connections', '/connections'],
  ['connection', '/connections/sso'], ['connection compared', '/connections/vault'], ['findings', '/findings'],
  ['finding', `/findings/${FINDING_ID}`], ['reports', '/reports'], ['stale', '/reports/stale?unused_for=1s'], ['broad', '/reports/broad'],
  ['right-size', '/reports/right-size?watched_for=0'], ['orphans', '/reports/orphans'], ['unowned', '/reports/unowned'], ['missing', '/nowhere'],
];
// The pages of the pictures, by the end of the file's name.
const pictures = { '': ['overview', 'tokens', 'token', 'finding', 'roles', 'stale'], '-dark': ['overview'], '-phone': ['overview', 'token'] };

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});

// open returns a page of a new browser profile. What the Content-Security-Policy stops, and what scripts report, is an error.
async function open(options = {}) {
  const context = await browser.newContext({ baseURL: CONSOLE, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.problems = [];
  page.on('console', (m) => { if (m.type() === 'error' && !/status of (4|5)\d\d/.test(m.text())) page.problems.push(m.text()); });
  page.on('pageerror', (e) => page.problems.push(String(e)));
  page.on('request', (r) => { if (new URL(r.url()).origin !== new URL(CONSOLE).origin) page.problems.push(`request to ${r.url()}`); });
  return page;
}

async function signIn(page) {
  await page.goto('/');
  assert.match(page.url(), /\/sign-in$/);
  await page.getByLabel('Name', { exact: true }).fill('ann');
  await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
  await page.keyboard.press('Enter');
  await page.waitForURL(`${CONSOLE}/`);
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
}

// check runs axe. evaluate runs outside of the page's policy, so that the policy stays in force for the page.
async function check(page, name) {
  await page.evaluate(`${axe}\n;undefined`);
  const violations = await page.evaluate(async () => {
    const result = await globalThis.axe.run(document, { resultTypes: ['violations'] });
    return result.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => `${n.html} ${n.failureSummary}`).join(' | ')}`);
  });
  assert.deepEqual(violations, [], `axe on ${name}`);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(overflow <= 0, `${name} is ${overflow} pixels wider than the window`);
}

async function everyPage(label, options, suffix) {
  const page = await open(options);
  await page.goto('/sign-in');
  await check(page, `${label}: sign-in`);
  await signIn(page);
  for (const [name, path] of pages) {
    await page.goto(path);
    await check(page, `${label}: ${name}`);
    if (SCREENSHOTS && pictures[suffix].includes(name)) {
      await page.screenshot({ path: join(SCREENSHOTS, `${name}${suffix}.png`), fullPage: name === 'overview' && suffix !== '-phone' });
    }
  }
  assert.deepEqual(page.problems, [], label);
  await page.context().close();
  console.log(`ok ${label}: ${pages.length + 1} pages`);
}

// Nothing but the keyboard: skip link, navigation, suspend with a note, resume, acknowledge, sign out.
async function keyboard() {
  const page = await open();
  const focused = () => page.evaluate(() => {
    const e = document.activeElement;
    return { text: (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || '').trim(), outline: getComputedStyle(e).outlineStyle };
  });
  const tabTo = async (text) => {
    for (let i = 0; i < 200; i++) {
      await page.keyboard.press('Tab');
      const at = await focused();
      if (at.text === text) {
        assert.notEqual(at.outline, 'none', `the focus on ${text} is not visible`);
        return;
      }
    }
    assert.fail(`Tab does not reach ${text}`);
  };
  const enter = async (text) => {
    await tabTo(text);
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
  };
  await page.goto('/sign-in');
  await tabTo('Name');
  await page.keyboard.type('ann');
  await tabTo('Password');
  await page.keyboard.type(PASSWORD);
  await Promise.all([page.waitForURL(`${CONSOLE}/`), page.keyboard.press('Enter')]);
  await page.keyboard.press('Tab');
  assert.equal((await focused()).text, 'Skip to the content');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  await page.goto('/');
  await enter('Tokens');
  await enter(`Suspend ${TOKEN_ID}`);
  await tabTo('Note');
  await page.keyboard.type('seen by the keyboard test');
  await enter('Suspend the token');
  await page.getByText(`Token ${TOKEN_ID} was suspended.`).waitFor();
  await page.getByText('seen by the keyboard test').first().waitFor();
  await check(page, 'suspended token');
  await enter('Resume');
  await enter('Resume the token');
  await page.getByText(`Token ${TOKEN_ID} was resumed.`).waitFor();
  await page.goto(`/findings/${FINDING_ID}`);
  await tabTo('Note');
  await page.keyboard.type('a load test');
  await enter('Acknowledge');
  await page.getByText('The finding was acknowledged.').waitFor();
  await page.getByText('a load test').waitFor();
  await check(page, 'acknowledged finding');
  await enter('Sign out');
  await page.getByRole('heading', { level: 1, name: 'Sign in' }).waitFor();
  await page.goto('/tokens');
  assert.match(page.url(), /\/sign-in$/);
  assert.deepEqual(page.problems, []);
  await page.context().close();
  console.log('ok keyboard');
}

// The policy of the page stops scripts and styles that somebody would bring in.
async function policy() {
  const page = await open();
  await signIn(page);
  const stopped = await page.evaluate(() => new Promise((resolve) => {
    const seen = [];
    document.addEventListener('securitypolicyviolation', (e) => { seen.push(e.effectiveDirective); if (seen.length === 2) resolve(seen.sort()); });
    const script = document.createElement('script');
    script.textContent = 'window.injected = true';
    document.body.append(script);
    document.body.insertAdjacentHTML('beforeend', '<p style="color: red">x</p>');
    setTimeout(() => resolve(seen.sort()), 2000);
  }));
  assert.deepEqual(stopped.map((s) => s.replace(/-(elem|attr)$/, '')), ['script-src', 'style-src']);
  assert.equal(await page.evaluate(() => window.injected), undefined);
  const cookies = await page.context().cookies();
  assert.ok(cookies.length > 0 && cookies.every((c) => c.httpOnly && c.sameSite === 'Strict'), JSON.stringify(cookies));
  const download = page.waitForEvent('download');
  await page.goto('/reports/unowned');
  await page.getByText('Download as CSV').click();
  assert.match((await download).suggestedFilename(), /^unowned-\d{4}-\d\d-\d\d\.csv$/);
  await page.context().close();
  console.log('ok policy');
}

try {
  await everyPage('light', { viewport: { width: 1100, height: 720 }, colorScheme: 'light' }, '');
  await everyPage('dark', { viewport: { width: 1100, height: 720 }, colorScheme: 'dark' }, '-dark');
  await everyPage('phone', { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true, colorScheme: 'light' }, '-phone');
  await policy();
  await keyboard();
} finally {
  await browser.close();
}
