"use strict";
// The galleries of the report: data in, cards out, decisions kept and exported. Text enters the page as text only.
(() => {
  const PAGE = 24; // cards in the page at a time, however many there are
  const STRIP = { width: 320, height: 64, top: 20, levels: 160 };
  const TABS = { accepted: "Accepted", rejected: "Rejected", unjudged: "Not judged yet", borderline: "Borderline", real: "Real" };
  const WORDS = { accept: "accepted by hand", reject: "rejected by hand" };
  const told = JSON.parse(document.getElementById("data").textContent);
  const decisions = new Map(Object.entries(told.decisions).map(([name, own]) => [name, new Map(Object.entries(own))]));
  const before = asJson(); // as built in; what differs from it is not exported yet
  let saved = before;

  // ---------------------------------------------------------------- elements

  function el(tag, props = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key === "text") made.textContent = value;
      else made.setAttribute(key, value === true ? "" : String(value));
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function svg(tag, props = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(props)) made.setAttribute(key, String(value));
    made.append(...children);
    return made;
  }

  function number(value) {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    return (size < 1e-3 || size >= 1e6 ? value.toExponential(1) : value.toFixed(3)).replace("-", "−");
  }

  // ---------------------------------------------------------------- decisions

  const decision = (dataset, id) => decisions.get(dataset)?.get(id) ?? null;

  function decide(dataset, card, word) {
    if (card.group === "real") return;
    if (!decisions.has(dataset)) decisions.set(dataset, new Map());
    const own = decisions.get(dataset);
    const off = own.get(card.id) === word;
    if (off) own.delete(card.id);
    else own.set(card.id, word);
    for (const node of document.querySelectorAll(".card"))
      if (node.dataset.id === card.id && node.dataset.set === dataset) mark(node, off ? null : word);
    tell(`${card.id}: ${off ? "decision withdrawn" : WORDS[word]}`);
    refresh();
  }

  function mark(node, word) {
    if (word) node.dataset.decision = word;
    else delete node.dataset.decision;
    node.querySelector(".state").textContent = word ? `${word === "accept" ? "✓" : "✗"} ${WORDS[word]}` : "";
    for (const button of node.querySelectorAll("button[data-word]"))
      button.setAttribute("aria-pressed", String(button.dataset.word === word));
  }

  function asJson() {
    const sets = [...decisions].filter(([, own]) => own.size).sort(([a], [b]) => (a < b ? -1 : 1));
    const ordered = sets.map(([name, own]) => [name, Object.fromEntries([...own].sort(([a], [b]) => (a < b ? -1 : 1)))]);
    return JSON.stringify(Object.fromEntries(ordered), null, 1) + "\n";
  }

  function download() {
    const text = asJson();
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "decisions.json" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    saved = text;
    tell("decisions.json downloaded");
    refresh();
  }

  function refresh() {
    const count = [...decisions.values()].reduce((sum, own) => sum + own.size, 0);
    const open = asJson() === saved ? "" : ", not downloaded yet";
    for (const node of document.querySelectorAll(".decided")) node.textContent = `${count} decision${count === 1 ? "" : "s"}${open}`;
  }

  function tell(text) {
    document.getElementById("told").textContent = text;
  }

  addEventListener("beforeunload", (event) => {
    if (asJson() !== saved) event.preventDefault();
  });

  // ---------------------------------------------------------------- pictures, strips and cells

  function panel(name, uri, alt, veil, title = name) {
    const pictures = [el("img", { src: uri, alt, decoding: "async" })];
    if (veil) pictures.push(el("img", { src: veil, alt: "", class: "veil", decoding: "async" }));
    return el("span", { class: "panel" }, el("small", { text: name, title }), el("span", { class: "stack" }, ...pictures));
  }

  function image(card, near) {
    const own = card.pictures;
    const made = own.generated ?? own.real;
    const what = `of a ${card.kind} record`;
    const shown = [["host", own.host], [own.generated ? "generated" : "real", made], ["difference", own.difference], ["control", own.control]];
    const panels = shown.filter(([, uri]) => uri).map(([name, uri]) => panel(name, uri, `${name} ${what}`));
    panels.splice(own.host ? 2 : 1, 0, panel("mask overlay", made, `mask on ${own.generated ? "generated" : "real"} ${what}`, own.mask));
    const apart = `nearest real anomaly, ${near?.kind}, distance ${number(card.distance)}`;
    if (near) panels.push(panel(`nearest, ${number(card.distance)}`, near.pictures.real, apart, near.pictures.mask, apart));
    return el("div", { class: "panels" }, ...panels);
  }

  function path(heights, kind, foot) {
    const across = STRIP.width / heights.length;
    const down = (STRIP.height - STRIP.top - 8) / STRIP.levels;
    let text = "";
    let pen = "M";
    heights.forEach((height, i) => {
      if (height !== null) text += `${pen}${((i + 0.5) * across).toFixed(1)} ${(foot - 4 - height * down).toFixed(1)}`;
      pen = height === null ? "M" : "L";
    });
    return svg("path", { d: text, class: kind });
  }

  function strips(card, what) {
    const body = [];
    card.strips.forEach((strip, row) => {
      const top = row * STRIP.height + STRIP.top;
      const foot = (row + 1) * STRIP.height - 2;
      for (const [from, to] of strip.spans)
        body.push(svg("rect", { x: (from / strip.steps) * STRIP.width, y: top, width: ((to - from) / strip.steps) * STRIP.width, height: foot - top, class: "span" }));
      for (const [name, kind] of [["host", "host"], ["control", "control"], ["record", "curve"]])
        if (strip.lines[name]) body.push(path(strip.lines[name], kind, foot));
      const label = svg("text", { x: 0, y: top - 6 });
      label.textContent = strip.name;
      const range = svg("text", { x: STRIP.width, y: top - 6, class: "tick", "text-anchor": "end" });
      range.textContent = strip.range;
      body.push(label, range);
    });
    const spans = card.strips.map((s) => `${s.name} ${s.spans.map(([a, b]) => `${a} to ${b}`).join(", ")}`).join("; ");
    const title = `${what}, ${card.kind}; marked steps: ${spans}`;
    return svg("svg", { viewBox: `0 0 ${STRIP.width} ${STRIP.height * card.strips.length}`, role: "img", "aria-label": title }, ...body);
  }

  function series(card, near) {
    const more = card.more ? el("p", { class: "near", text: `${card.more} more channel${card.more > 1 ? "s" : ""}` }) : null;
    const other = near ? [el("p", { class: "near", text: `Nearest real anomaly: ${near.kind}, distance ${number(card.distance)}` }), strips(near, "nearest real anomaly")] : [];
    return el("div", {}, strips(card, card.group === "real" ? "real anomaly" : "generated record"), more, ...other);
  }

  function cells(card, near, columns) {
    const made = card.group !== "real";
    const heads = made ? ["column", "host", "generated", ...(near ? ["nearest real"] : [])] : ["column", "value"];
    const rows = card.cells.map(([column, host, value, like, changed, marked]) =>
      el("tr", { class: `${changed ? "changed" : ""} ${marked ? "marked" : ""}` },
        el("th", { scope: "row", text: columns[column] }, marked ? el("span", { class: "off", text: " (anomalous)" }) : null),
        made ? el("td", { text: host ?? "–" }) : null,
        el("td", { class: "now", text: value }, changed ? el("span", { class: "off", text: " (changed)" }) : null),
        made && near ? el("td", { text: like ?? "–" }) : null));
    const rest = card.more ? `${card.more} more column${card.more > 1 ? "s" : ""}${made && card.same === card.more ? ", equal to the host" : ""}. ` : "";
    const other = near ? `Nearest real anomaly: ${near.kind}, distance ${number(card.distance)}.` : "";
    return el("div", {},
      el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))), el("tbody", {}, ...rows)),
      rest || other ? el("p", { class: "near", text: rest + other }) : null);
  }

  const DRAW = { image, series, row: cells };

  // ---------------------------------------------------------------- cards

  function facts(card) {
    const all = [
      ["round", card.round], ["support", card.support], ["severity", card.severity], ["area", card.area === null ? null : `${(100 * card.area).toFixed(1)} %`],
      ["overlap", card.overlap], ["distance", card.distance], ...Object.entries(card.scores),
      ...(card.group === "real" ? [] : [["seed", card.seed], ["host", card.host]]),
    ];
    const shown = all.filter(([, value]) => value !== null && value !== undefined && value !== "");
    const wide = (name) => (name === "seed" || name === "host" ? "wide" : null);
    return el("dl", {}, ...shown.flatMap(([name, value]) => [el("dt", { text: name, class: wide(name) }),
      el("dd", { text: typeof value === "number" ? number(value) : value, class: wide(name) })]));
  }

  function draw(set, card) {
    const near = card.nearest ? set.nearest.get(card.nearest) : null;
    const verdict = { accepted: "kept", rejected: `rejected: ${card.reason}`, real: "real" }[card.group] ?? "not judged";
    const node = el("li", { class: "card", tabindex: -1, "data-id": card.id, "data-set": set.name, "aria-label": `${card.kind}, ${verdict}` },
      el("p", { class: "top" }, el("b", { text: card.kind }), el("span", { class: card.group === "accepted" ? "accepted" : "reason", text: verdict })),
      DRAW[set.modality](card, near, set.columns),
      card.near ? el("p", { class: "near", text: card.near }) : null,
      facts(card),
      el("div", { class: "foot" },
        ...(card.group === "real" ? [] : [["accept", "Accept", "a"], ["reject", "Reject", "r"]]).map(([word, text, key]) =>
          el("button", { type: "button", tabindex: -1, "data-word": word, "aria-keyshortcuts": key, "aria-pressed": "false", text, onclick: () => decide(set.name, card, word) })),
        el("span", { class: "state" }), el("span", { class: "id", text: card.id })));
    mark(node, decision(set.name, card.id));
    return node;
  }

  // A list of cards with one tab stop; `turn(by)` asks for another page and says whether there was one.
  function listed(label, modality, turn) {
    const node = el("ul", { class: `cards ${modality}`, "aria-label": label });
    const state = { node, set: null, cards: [] };

    function current(at, focus) {
      const all = [...node.children];
      all.forEach((card, i) => {
        card.tabIndex = i === at ? 0 : -1;
        for (const button of card.querySelectorAll("button")) button.tabIndex = i === at ? 0 : -1;
      });
      if (focus && all[at]) {
        all[at].focus({ preventScroll: true });
        all[at].scrollIntoView({ block: "nearest" });
      }
    }

    state.fill = (set, cards, focus = null) => {
      Object.assign(state, { set, cards });
      node.replaceChildren(...cards.map((card) => draw(set, card)));
      current(focus === "last" ? cards.length - 1 : 0, focus !== null);
    };

    node.addEventListener("focusin", (event) => {
      const at = [...node.children].indexOf(event.target.closest(".card"));
      if (at >= 0) current(at, false);
    });

    node.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const all = [...node.children];
      const at = all.indexOf(event.target.closest(".card"));
      if (at < 0) return;
      const wide = Math.max(1, all.filter((card) => card.offsetTop === all[0].offsetTop).length);
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide }[event.key];
      const word = { a: "accept", r: "reject" }[event.key.toLowerCase()];
      if (word) decide(state.set.name, state.cards[at], word);
      else if (event.key === "Home") current(0, true);
      else if (event.key === "End") current(all.length - 1, true);
      else if (step && all[at + step]) current(at + step, true);
      else if (step && !turn(Math.sign(step))) current(step > 0 ? all.length - 1 : 0, true);
      else if (!step) return;
      event.preventDefault();
    });
    return state;
  }

  // ---------------------------------------------------------------- a gallery

  function choice(label, options, change) {
    const select = el("select", { onchange: () => change(select.value) }, ...options.map(([value, text]) => el("option", { value, text })));
    return el("label", { text: label }, select);
  }

  function values(cards, of) {
    return [...new Set(cards.map(of).filter((value) => value !== "" && value !== null && value !== undefined))].sort();
  }

  function sorts(cards) {
    const names = [...new Set(cards.flatMap((card) => Object.keys(card.scores)))].sort((a, b) => (b === "fused") - (a === "fused"));
    const all = [...names.map((name) => [`score ${name}`, (card) => card.scores[name]]), ["severity", (card) => card.severity],
      ["area", (card) => card.area], ["copy distance", (card) => card.distance], ["distance to a threshold", (card) => card.margin]];
    const known = all.filter(([, of]) => cards.some((card) => Number.isFinite(of(card))));
    return new Map(known.flatMap(([name, of]) => [[`${name}, lowest first`, [of, 1]], [`${name}, highest first`, [of, -1]]]));
  }

  function ranked(cards, [of, sign]) {
    const value = (card) => (Number.isFinite(of(card)) ? sign * of(card) : Infinity);
    return cards.map((card) => [value(card), card]).sort(([a], [b]) => (a === b ? 0 : a - b)).map(([, card]) => card);
  }

  function gallery(home, set) {
    const groups = Object.fromEntries(Object.keys(TABS).map((tab) => [tab, set.cards.filter((card) => card.group === tab)]));
    groups.borderline = ranked(set.cards.filter((card) => card.borderline), [(card) => card.margin, 1]);
    groups.real = set.real.filter((card) => card.shown);
    const tabs = Object.keys(TABS).filter((tab) => groups[tab].length || (set.judged && tab !== "unjudged" && tab !== "real"));
    const orders = sorts(set.cards);
    const at = { tab: tabs[0], page: 0, kind: "", round: "", reason: "", support: "", decided: "", sort: "" };
    const id = home.id;
    const list = listed(`Records of ${set.name}`, set.modality, (by) => turn(by, by > 0 ? "first" : "last"));
    const said = el("p", { class: "about", role: "status" });
    const back = el("button", { type: "button", text: "Previous", onclick: () => turn(-1) });
    const next = el("button", { type: "button", text: "Next", onclick: () => turn(1) });
    const where = el("span");
    const panel = el("div", { role: "tabpanel", id: `${id}-panel` }, said, list.node, el("div", { class: "pages" }, back, where, next));

    const FILTERS = {
      kind: (card) => card.kind === at.kind, round: (card) => card.round === at.round, reason: (card) => card.reason === at.reason,
      support: (card) => String(card.support) === at.support,
      decided: (card) => (decision(set.name, card.id) ?? "none") === at.decided,
    };

    function shown() {
      const used = Object.keys(FILTERS).filter((name) => at[name] !== "" && (at.tab !== "real" || name === "kind"));
      const left = groups[at.tab].filter((card) => used.every((name) => FILTERS[name](card)));
      return orders.has(at.sort) ? ranked(left, orders.get(at.sort)) : left;
    }

    function update(focus = null) {
      const cards = shown();
      const pages = Math.max(1, Math.ceil(cards.length / PAGE));
      at.page = Math.min(Math.max(at.page, 0), pages - 1);
      const own = cards.slice(at.page * PAGE, (at.page + 1) * PAGE);
      list.fill(set, own, focus);
      const from = own.length ? at.page * PAGE + 1 : 0;
      said.textContent = cards.length ? `${from} to ${from + own.length - 1} of ${cards.length}` : "No record here with these filters.";
      where.textContent = `Page ${at.page + 1} of ${pages}`;
      back.disabled = at.page === 0;
      next.disabled = at.page === pages - 1;
    }

    function turn(by, focus = null) {
      const pages = Math.ceil(shown().length / PAGE);
      if (at.page + by < 0 || at.page + by >= pages) return false;
      at.page += by;
      update(focus);
      return true;
    }

    function set_(name, value) {
      at[name] = value;
      at.page = 0;
      update();
    }

    function open(tab, focus) {
      at.tab = tab;
      at.page = 0;
      for (const button of strip.children) {
        const on = button.dataset.tab === tab;
        button.setAttribute("aria-selected", String(on));
        button.tabIndex = on ? 0 : -1;
        if (on && focus) button.focus();
        if (on) panel.setAttribute("aria-labelledby", button.id);
      }
      update();
    }

    const strip = el("div", { role: "tablist", class: "tabs", "aria-label": `Records of ${set.name}` },
      ...tabs.map((tab) => el("button", { type: "button", role: "tab", id: `${id}-${tab}`, "data-tab": tab, "aria-controls": `${id}-panel`,
        text: `${TABS[tab]} (${groups[tab].length})`, onclick: () => open(tab, false) })));
    strip.addEventListener("keydown", (event) => {
      const i = tabs.indexOf(at.tab);
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      open(tabs[(to + tabs.length) % tabs.length], true);
    });

    const every = (options, any) => [["", any], ...options.map((value) => [value, value])];
    const choices = [["kind", values([...set.cards, ...groups.real], (card) => card.kind)], ["round", values(set.cards, (card) => card.round)],
      ["reason", values(set.cards, (card) => card.reason)], ["support", values(set.cards, (card) => card.support === null ? null : String(card.support))]];
    const filters = choices.filter(([, options]) => options.length > 1).map(([name, options]) =>
      choice(name[0].toUpperCase() + name.slice(1), every(options, "all"), (value) => set_(name, value)));
    const decided = choice("By hand", [["", "all"], ["none", "not decided"], ["accept", "accepted"], ["reject", "rejected"]], (value) => set_("decided", value));
    const sort = choice("Sort by", every([...orders.keys()], "as stored"), (value) => set_("sort", value));
    const overlay = el("input", { type: "checkbox", checked: true, "aria-keyshortcuts": "m", onchange: () => home.classList.toggle("bare", !overlay.checked) });
    home.addEventListener("keydown", (event) => {
      if (event.key !== "m" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
      overlay.checked = !overlay.checked;
      overlay.dispatchEvent(new Event("change"));
    });
    const marks = set.modality === "row" ? null : el("label", { class: "tick" }, overlay, "Masks");
    const save = el("button", { type: "button", class: "export", text: "Download decisions.json", onclick: download });
    home.replaceChildren(strip,
      el("div", { class: "tools" }, ...filters, decided, sort, marks, save, el("span", { class: "decided" })),
      panel);
    open(at.tab, false);
  }

  // ---------------------------------------------------------------- the page

  for (const set of told.datasets) set.nearest = new Map(set.real.map((card) => [card.id, card]));
  for (const home of document.querySelectorAll(".gallery")) gallery(home, told.datasets[Number(home.dataset.at)]);
  for (const home of document.querySelectorAll(".closest")) {
    const set = told.datasets[Number(home.dataset.at)];
    const list = listed(`Kept records of ${set.name} nearest to a real anomaly`, set.modality, () => false);
    list.fill(set, ranked(set.cards.filter((card) => card.closest), [(card) => card.distance, 1]));
    home.replaceChildren(list.node);
  }
  refresh();
  document.documentElement.dataset.ready = performance.now().toFixed(0);
})();
