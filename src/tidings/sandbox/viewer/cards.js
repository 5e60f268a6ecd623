// Builds the card of an arrival. Everything from outside goes in as text, never as HTML; an email's HTML
// is shown in a frame that runs no scripts (see the Content-Security-Policy of /_sandbox/mail/).

const BAD = new Set(["refused", "bounce", "dropped", "failed", "undelivered", "spamreport"]);
const GOOD = new Set(["delivered", "open", "click"]);
const WORDS = {
  bounce: "bounced", open: "opened", click: "clicked", spamreport: "reported as spam", unsubscribe: "unsubscribed",
};
const FRAME_MAX = 620;

// The command that shows the timeline of notification `{id}`, as the sandbox gave it.
export const timeline = { curl: "" };

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function when(at) {
  const time = el("time", { dateTime: new Date(at).toISOString(), title: new Date(at).toLocaleString() });
  time.dataset.at = at;
  time.textContent = ago(at);
  return time;
}

export function ago(at) {
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  if (seconds < 5) return "now";
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export function setStatus(chip, status, error = "") {
  const word = WORDS[status] ?? status;
  chip.textContent = error && error.length < 24 ? `${word} · ${error}` : word;
  chip.dataset.mood = BAD.has(status) ? "bad" : GOOD.has(status) ? "good" : status === "deferred" ? "wait" : "";
  chip.title = error;
}

function chipOf(arrival) {
  const chip = el("span", { className: "chip" });
  chip.dataset.seq = arrival.seq;
  setStatus(chip, arrival.status, arrival.error);
  return chip;
}

function safeLink(link) {
  if (!link) return null;
  if (!/^https?:\/\//i.test(link)) return el("span", { className: "url", textContent: link });
  return el("a", { className: "url", href: link, target: "_blank", rel: "noopener noreferrer", textContent: link });
}

function details(arrival) {
  const rows = [
    ["Vendor", arrival.vendor], ["From", arrival.sender], ["Error", arrival.error], ["Delivery", arrival.delivery],
    ["Notification", arrival.notification], ["Reference", arrival.reference], ["Idempotency key", arrival.key],
    ...Object.entries(arrival.tags ?? {}),
  ].filter(([, value]) => value);
  const list = el("dl", { className: "facts" });
  for (const [name, value] of rows) list.append(el("dt", { textContent: name }), el("dd", {}, el("bdi", { textContent: value })));
  if (!arrival.notification) return list;
  const buttons = [["tidings status", `tidings status ${arrival.notification}`]];
  if (timeline.curl) buttons.push(["curl", timeline.curl.replace("{id}", arrival.notification)]);
  list.append(el("dt", { textContent: "Timeline" }), el("dd", { className: "copies" }, ...buttons.map(([name, text]) => {
    const copy = el("button", { type: "button", className: "link", title: text, textContent: `Copy ${name}` });
    copy.dataset.copies = text;
    return copy;
  })));
  return list;
}

function fold(arrival) {
  return el("details", { className: "fold" }, el("summary", { textContent: "Details" }), details(arrival));
}

function initial(text) {
  return [...(text.trim() || "·")][0].toLocaleUpperCase();
}

// Email ---------------------------------------------------------------------------------------------------------------

export function emailCard(arrival) {
  const sender = arrival.from_name || arrival.sender || "(no sender)";
  const to = arrival.to_name
    ? [el("bdi", { textContent: arrival.to_name }), " <", el("bdi", { textContent: arrival.to }), ">"]
    : [el("bdi", { textContent: arrival.to })];
  const head = el("button", { type: "button", className: "mail-head", ariaExpanded: "false" },
    el("span", { className: "avatar", ariaHidden: "true", textContent: initial(sender) }),
    el("span", { className: "mail-lines" },
      el("span", { className: "mail-top" },
        el("bdi", { className: "mail-from", textContent: sender }), when(arrival.at)),
      el("span", { className: "mail-subject", dir: "auto", textContent: arrival.title || "(no subject)" }),
      el("span", { className: "mail-to" }, "to ", ...to)),
    chipOf(arrival));
  const body = el("div", { className: "mail-body", hidden: true });
  const card = el("article", { className: "card mail" }, head, body);
  const open = (wanted) => {
    if (wanted && !body.firstChild) body.append(...mailBody(arrival));
    body.hidden = !wanted;
    head.ariaExpanded = String(wanted);
    card.classList.toggle("open", wanted);
  };
  head.addEventListener("click", () => {
    card.dataset.touched = "yes";
    open(body.hidden);
  });
  card.open = open;
  return card;
}

function mailBody(arrival) {
  const pane = el("div", { className: "mail-pane" });
  const views = {};
  if (arrival.html) views.Rendered = () => frame(arrival, false);
  if (arrival.text) views.Text = () => el("pre", { className: "mail-text", dir: "auto", textContent: arrival.text });
  views.Details = () => details(arrival);
  const tabs = el("div", { className: "tabs", role: "tablist" });
  const show = (name) => {
    for (const tab of tabs.querySelectorAll("[role=tab]")) tab.ariaSelected = String(tab.textContent === name);
    pane.replaceChildren(views[name]());
  };
  for (const name of Object.keys(views)) {
    const tab = el("button", { type: "button", role: "tab", textContent: name });
    tab.addEventListener("click", () => show(name));
    tabs.append(tab);
  }
  if (arrival.html) {
    const images = el("button", { type: "button", className: "link images", textContent: "Load remote images" });
    images.addEventListener("click", () => {
      show("Rendered");
      pane.replaceChildren(frame(arrival, true));
    });
    tabs.append(images);
  }
  show(Object.keys(views)[0]);
  return [tabs, pane];
}

function frame(arrival, images) {
  const view = el("iframe", {
    className: "mail-frame", title: `Email: ${arrival.title ?? ""}`, referrerPolicy: "no-referrer",
    src: `/_sandbox/mail/${arrival.seq}${images ? "?images=1" : ""}`,
  });
  view.setAttribute("sandbox", "allow-same-origin allow-popups allow-popups-to-escape-sandbox");
  view.addEventListener("load", () => {
    const page = view.contentDocument?.documentElement;
    if (page) view.style.height = `${Math.min(FRAME_MAX, Math.max(60, page.scrollHeight))}px`;
  });
  return view;
}

// SMS -----------------------------------------------------------------------------------------------------------------

export function smsThread(arrival) {
  const bubbles = el("div", { className: "bubbles" });
  const thread = el("article", { className: "card thread" },
    el("header", {}, el("span", { className: "avatar small", ariaHidden: "true", textContent: "#" }),
      el("bdi", { className: "thread-to", textContent: arrival.to })),
    bubbles);
  thread.dataset.to = arrival.to;
  return thread;
}

export function smsBubble(arrival) {
  const many = arrival.segments > 1 ? `${arrival.segments} segments` : "1 segment";
  const size = `${many} · ${arrival.encoding === "ucs-2" ? "UCS-2" : "GSM-7"}`;
  return el("div", { className: `bubble-row${arrival.status === "refused" ? " refused" : ""}` },
    el("div", { className: "bubble", dir: "auto", textContent: arrival.text }),
    el("div", { className: "meta" }, chipOf(arrival), el("span", { className: "size", textContent: size }),
      when(arrival.at)),
    fold(arrival));
}

// Push and in-app -----------------------------------------------------------------------------------------------------

export function pushCard(arrival) {
  return el("article", { className: "card push" },
    el("div", { className: "push-top" },
      el("span", { className: "app", ariaHidden: "true" }), el("span", { textContent: "Your app" }), when(arrival.at)),
    el("h3", { dir: "auto", textContent: arrival.title || "(data only)" }),
    arrival.text ? el("p", { dir: "auto", textContent: arrival.text }) : null,
    safeLink(arrival.link),
    el("div", { className: "meta" }, chipOf(arrival),
      el("bdi", { className: "token", title: arrival.to, textContent: arrival.to })),
    fold(arrival));
}

export function inappCard(arrival) {
  return el("article", { className: "card item" },
    el("div", { className: "item-top" }, el("span", { className: "dot", ariaHidden: "true" }),
      el("h3", { dir: "auto", textContent: arrival.title || "(no title)" }), when(arrival.at)),
    arrival.text ? el("p", { dir: "auto", textContent: arrival.text }) : null,
    safeLink(arrival.link),
    el("div", { className: "meta" }, el("span", { className: "token" }, "inbox of ",
      el("bdi", { textContent: arrival.to }))),
    fold(arrival));
}
