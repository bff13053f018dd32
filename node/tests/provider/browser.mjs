// Somebody with a browser: node browser.mjs URL LOGIN [CODE | decline]
// Follows where it leads, with cookies; fills in the forms of oidc-provider; ends where there is nothing to fill in, and prints that page.

const [first, login, wish] = process.argv.slice(2);
const cookies = new Map();

async function load(url, form) {
  for (let hops = 0; hops < 20; hops += 1) {
    const response = await fetch(url, {
      method: form ? 'POST' : 'GET',
      body: form && new URLSearchParams(form),
      redirect: 'manual',
      headers: { cookie: [...cookies].map((pair) => pair.join('=')).join('; ') },
    });
    for (const cookie of response.headers.getSetCookie()) {
      const [name, ...value] = cookie.split(';')[0].split('=');
      cookies.set(name, value.join('='));
    }
    const onward = response.headers.get('location');
    if (!onward) return { url, status: response.status, text: await response.text() };
    url = new URL(onward, url).href;
    form = undefined;
  }
  throw new Error(`${first} leads nowhere`);
}

const unescaped = (text) => text.replaceAll('&amp;', '&').replaceAll('&#x2F;', '/').replaceAll('&#39;', "'").replaceAll('&quot;', '"');

let page = await load(first);
for (let forms = 0; forms < 6; forms += 1) {
  const form = page.text.match(/<form[^>]*>[\s\S]*?<\/form>/)?.[0];
  if (!form) break;
  const action = new URL(unescaped(form.match(/action="([^"]*)"/)?.[1] ?? page.url), page.url).href;
  const fields = {};
  for (const [tag] of form.matchAll(/<input[^>]*>/g)) {
    const name = tag.match(/name="([^"]*)"/)?.[1];
    if (name) fields[name] = unescaped(tag.match(/value="([^"]*)"/)?.[1] ?? '');
  }
  if ('login' in fields) Object.assign(fields, { login, password: 'x' });
  if ('user_code' in fields && !fields.user_code) fields.user_code = wish;
  // The first page of a device code asks whether it is the right one.
  if (page.text.includes('name="confirm"') || form.includes('confirm')) fields.confirm = 'yes';
  const abort = page.text.match(/href="([^"]*\/abort)"/)?.[1];
  page = wish === 'decline' && abort ? await load(new URL(unescaped(abort), page.url).href) : await load(action, fields);
}
console.log(`${page.status} ${page.text.replaceAll(/\s+/g, ' ')}`);
