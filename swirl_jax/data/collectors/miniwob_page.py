"""What runs inside the page of a MiniWoB++ task: its clock, its reader and its hands.

CLOCK is installed before the page's own scripts. The page then has no time of its own: dates,
timers and animation frames follow a counter that stands still between two actions and is moved on
by `swirl.settle`. Until a seed is set, random numbers are a fixed sequence. It also remembers which
elements listen to the mouse, which is how a `span` is known to be a button.

HANDS is defined after the page has loaded: `swirl.start(seed)` begins the episode, `swirl.act`
does one action, and both return what `swirl.read` sees, a dict:

    task      the instruction, and in `hints` the words that it emphasises
    items     what is visible, in the page's order: a plain text has `text` alone; a control has
              kind, ref (what it is called), text (ref without number), marks, depth (in a tree),
              locked, and where it has them value and options
    done      whether the episode is over, and `success`: whether the page rewarded it
"""

CLOCK = r"""
(() => {
  const START = 1.7e12;  // milliseconds
  let now = START, next = 1, drawn = 1;
  const timers = new Map();
  const later = (call, delay, every, given) => {
    const wait = Math.max(Number(delay) || 0, every ? 1 : 0);
    timers.set(next, {call, at: now + wait, every: every ? wait : 0, given});
    return next++;
  };
  const forget = id => { timers.delete(id); };
  window.Date = new Proxy(Date, {
    construct: (target, given, as) =>
      Reflect.construct(target, given.length ? given : [now], as),
    apply: target => new target(now).toString(),
    get: (target, name) => name === 'now' ? () => now : Reflect.get(target, name),
  });
  performance.now = () => now - START;
  window.setTimeout = (call, delay, ...given) => later(call, delay, false, given);
  window.setInterval = (call, delay, ...given) => later(call, delay, true, given);
  window.requestAnimationFrame = call => later(() => call(now - START), 16, false, []);
  window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = forget;
  Math.random = () => {  // Park and Miller's minimal standard
    drawn = drawn * 48271 % 2147483647;
    return drawn / 2147483647;
  };
  const pressed = new WeakSet();
  const listen = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (type, ...given) {
    if (['click', 'mousedown'].includes(type) && this instanceof Element) pressed.add(this);
    return listen.call(this, type, ...given);
  };
  // Moves the clock on by so many milliseconds and runs what falls due, in order of time.
  const settle = milliseconds => {
    const end = now + milliseconds;
    for (let calls = 0; ; calls++) {
      let due = null;
      for (const [id, timer] of timers)
        if (timer.at <= end && (due === null || timer.at < timers.get(due).at)) due = id;
      if (due === null) break;
      if (calls >= 20000) throw new Error('the page never comes to rest');
      const timer = timers.get(due);
      now = Math.max(now, timer.at);
      if (timer.every) timer.at = now + timer.every;
      else timers.delete(due);
      if (typeof timer.call === 'function') timer.call(...timer.given);
      else (0, eval)(timer.call);
    }
    now = end;
  };
  window.swirl = {pressed, settle};
})();
"""

HANDS = r"""
(() => {
  const OUTSIDE = '#query, #reward-display, #click-canvas, #sync-task-cover, .hitarea, '
    + 'script, style, svg';
  const NATIVE = 'input, textarea, select, button, a, [role=tab], [role=button]';
  const MARKS = /^(clicked|selected|active|highlight|expanded)$|ui-state-active/;
  const SETTLE = 2000;  // milliseconds of the page's clock after each action: animations are over
  const LONG = 40;  // letters of a text that are shown
  let controls = [];

  const clean = text => text.replace(/[\s\p{C}]+/gu, ' ').trim();
  const cut = text => text.length <= LONG ? text
    : text.slice(0, LONG + 1).replace(/\s*\S*$/, '') + '...';
  const shown = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== 'hidden';
  const isControl = e =>
    e.matches(NATIVE) || (swirl.pressed.has(e) && !e.matches('body, #area, #wrap'));

  // The texts of an element's visible inside that belong to no control in it, up to `stop`.
  const ownTexts = (element, stop) => {
    const parts = [];
    const walk = node => {
      for (const child of node.childNodes) {
        if (child === stop) return true;
        if (child instanceof Text) parts.push(clean(child.data));
        if (!(child instanceof Element) || child.matches(OUTSIDE) || !shown(child)) continue;
        if (isControl(child) && !(stop && child.contains(stop))) continue;
        if (walk(child)) return true;
      }
      return false;
    };
    walk(element);
    return parts.filter(Boolean);
  };
  const ownText = (element, stop) => ownTexts(element, stop).join(' ');

  // A field with no label of its own is called by the text before it, if it is alone in its row.
  const rowText = field => {
    const row = field.closest('tr') || field.parentElement;
    const alone = row.querySelectorAll('input, textarea, select, button').length === 1;
    return alone ? ownText(row, field) : '';
  };

  const kindOf = e => {
    const tag = e.tagName.toLowerCase();
    if (tag === 'input') return ['button', 'submit'].includes(e.type) ? 'button' : e.type;
    if (tag === 'a' || e.matches('.alink')) return e.matches('[role=tab] a') ? 'tab' : 'link';
    if (tag === 'select') return 'list';
    if (tag === 'textarea' || tag === 'button') return tag;
    if (e.matches('.folder')) return 'folder';
    if (e.querySelector(':scope > .file')) return 'file';
    return e.getAttribute('role') || 'item';
  };

  // What a person would call it: its label or text, else its id, name, first class.
  const nameOf = (e, kind) => {
    const label = [...(e.labels || [])].map(ownText).join(' ').trim();
    const field = e.matches('input, textarea, select');
    const texts = ownTexts(e);
    const whole = texts.join(' ');
    const text = kind === 'button' && field ? clean(e.value)
      : field ? label || rowText(e)
      : kind === 'item' && texts.length ? texts[0] : whole;
    if (/[\p{L}\p{N}+-]/u.test(text)) return ' ' + cut(text.replace(/:$/, ''));
    const own = [...e.classList].find(c => !/^ui-/.test(c) || /-(up|down)$/.test(c));
    const word = e.id.replace(/^ui-id-\d+$/, '') || e.name || own;
    return word ? '#' + word.replace(/^ui-/, '') : '';
  };

  // In how many entries of a tree an element is, besides its own.
  const depthOf = e => {
    const own = e.closest('li');
    let depth = 0;
    for (let up = own && own.parentElement.closest('li'); up; up = up.parentElement.closest('li'))
      depth++;
    return depth;
  };

  const marksOf = e => {
    const marks = [];
    const holder = e.closest('[role=tab]') || e;
    if ([...e.classList].some(c => MARKS.test(c))
        || ['aria-selected', 'aria-pressed'].some(n => holder.getAttribute(n) === 'true'))
      marks.push('on');
    else if (e.getAttribute('aria-expanded') === 'true' || e.matches('.collapsable > .folder'))
      marks.push('open');
    if (e.disabled) marks.push('disabled');
    if (document.activeElement === e) marks.push('*');
    return marks;
  };

  const read = () => {
    const items = [], names = new Map();
    controls = [];
    const add = e => {
      const kind = kindOf(e), name = nameOf(e, kind);
      if (!name.startsWith(' ') && [...e.querySelectorAll('*')].some(isControl)) return;  // a frame
      if (items.length && ' ' + items.at(-1).text.replace(/:$/, '') === name) items.pop();
      const text = kind === 'item' && name.startsWith('#') ? name.slice(1) : kind + name;
      const item = {kind, marks: marksOf(e), text, depth: depthOf(e)};
      const same = (names.get(item.text) || 0) + 1;
      names.set(item.text, same);
      item.ref = same > 1 ? item.text + ' (' + same + ')' : item.text;
      if (kind === 'checkbox' || kind === 'radio') item.value = e.checked ? '[x]' : '[ ]';
      else if (kind === 'list') {
        item.options = [...e.options].map(o => clean(o.text));
        item.value = e.selectedIndex < 0 ? '' : item.options[e.selectedIndex];
      } else if (e.matches('input, textarea') && kind !== 'button') item.value = clean(e.value);
      item.locked = e.disabled || e.readOnly || false;
      controls.push(e);
      items.push(item);
    };
    const walk = (node, inside) => {
      let text = '';
      const flush = () => {
        if (clean(text)) items.push({text: cut(clean(text))});
        text = '';
      };
      for (const child of node.childNodes) {
        if (child instanceof Text) { if (!inside) text += child.data; continue; }
        if (!(child instanceof Element) || child.matches(OUTSIDE) || !shown(child)) continue;
        if (isControl(child)) { flush(); add(child); walk(child, true); }
        else if (child.matches('label') && child.control && shown(child.control)) {
          flush(); walk(child, true);
        } else if (getComputedStyle(child).display === 'inline' && !child.querySelector('*')) {
          if (!inside) text += child.textContent;
        } else { flush(); walk(child, inside); }
      }
      flush();
    };
    walk(document.body, false);
    const query = document.getElementById('query');
    return {task: clean(query.textContent), items,
            hints: [...query.querySelectorAll('b, .bold')].map(e => clean(e.textContent)),
            done: WOB_DONE_GLOBAL, success: WOB_RAW_REWARD_GLOBAL > 0};
  };

  const mouse = (e, type) => {
    const box = e.getBoundingClientRect();
    return e.dispatchEvent(new MouseEvent(type, {
      bubbles: true, cancelable: true, view: window, button: 0, detail: 1,
      clientX: box.x + box.width / 2, clientY: box.y + box.height / 2,
    }));
  };
  const focus = e => {
    const target = e.closest('input, textarea, select, button, a[href], [tabindex]');
    if (target) target.focus();
    else if (document.activeElement) document.activeElement.blur();
  };
  const click = e => {
    mouse(e, 'mouseover');
    if (mouse(e, 'mousedown')) focus(e);
    mouse(e, 'mouseup');
    e.click();
  };
  const key = (e, type, letter) => e.dispatchEvent(new KeyboardEvent(type, {
    bubbles: true, cancelable: true, key: letter,
    keyCode: letter.toUpperCase().charCodeAt(0), which: letter.toUpperCase().charCodeAt(0),
  }));
  const changed = (e, ...types) =>
    types.forEach(type => e.dispatchEvent(new Event(type, {bubbles: true})));
  const hands = {
    click,
    type: (e, text) => {
      if (document.activeElement !== e) click(e);
      for (const letter of text) {
        const goes = key(e, 'keydown', letter) && key(e, 'keypress', letter);
        if (goes && (e.maxLength < 0 || e.value.length < e.maxLength)) {
          e.value += letter;
          changed(e, 'input');
        }
        key(e, 'keyup', letter);
      }
      changed(e, 'change');
    },
    set: (e, text) => { focus(e); e.value = text; changed(e, 'input', 'change'); },
    clear: e => {
      focus(e);
      e.value = '';
      changed(e, 'input');
      key(e, 'keyup', '\b');
      changed(e, 'change');
    },
    choose: (e, text) => {
      focus(e);
      e.selectedIndex = [...e.options].findIndex(o => clean(o.text) === text);
      changed(e, 'input', 'change');
    },
  };

  swirl.read = read;
  swirl.start = seed => {
    if (window.jQuery) jQuery.fx.off = true;
    Math.seedrandom(seed);
    WOB_DATA_MODE = 'train';
    core.EPISODE_MAX_TIME = 1e9;  // the episode's end is the collector's matter
    core.startEpisodeReal();
    swirl.settle(SETTLE);
    if (!WOB_TASK_READY) throw new Error('the task is not ready');
    return read();
  };
  swirl.act = (index, hand, text) => {
    hands[hand](controls[index], text);
    swirl.settle(SETTLE);
    return read();
  };
})();
"""
