"use strict";
// Titles of marks are shown near the pointer or the finger, and at once: browsers would
// wait for a second.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  let marked = null;

  const hide = () => {
    tip.hidden = true;
    if (marked) marked.classList.remove("on");
    marked = null;
  };

  const show = (mark, box) => {
    if (marked) marked.classList.remove("on");
    marked = mark;
    mark.classList.add("on");
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const width = tip.offsetWidth;
    const left = Math.min(Math.max(4, box.left + box.width / 2 - width / 2),
      document.documentElement.clientWidth - width - 4);
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 4 ? box.bottom + 6 : above}px`;
  };

  for (const svg of document.querySelectorAll("figure > svg")) {
    const marks = [...svg.querySelectorAll(".mark")];
    for (const mark of marks) {
      const title = mark.querySelector("title");
      if (!title) continue;
      mark.dataset.tip = title.textContent;
      title.remove();
    }
    // The nearest mark within 24 pixels, so that a small point need not be hit exactly.
    const nearest = (event) => {
      let best = null;
      let least = 24;
      for (const mark of marks) {
        const box = mark.getBoundingClientRect();
        const dx = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
        const dy = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
        const distance = Math.hypot(dx, dy);
        if (distance < least) {
          best = [mark, box];
          least = distance;
        }
      }
      if (best) show(...best); else hide();
    };
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") hide();
    });
  }
  document.addEventListener("scroll", hide, {passive: true});
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("figure > svg")) hide();
  });
})();

// The viewer of faces.
(() => {
  const source = document.getElementById("faces-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const pageSize = 60;
  const form = document.getElementById("filter");
  const grid = document.getElementById("grid");
  const count = document.getElementById("count");
  const detail = document.getElementById("face");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  let page = 0;

  const make = (tag, text) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const genderName = (face) => face.gender < 0 ? "no gender" : data.classes[face.gender];
  const ageName = (face) => face.age < 0 ? "no age" : String(face.age);
  const address = (face) => "data:image/jpeg;base64," + data.head + face.image;

  const chosen = () => {
    const {split, gender, low, high, order} = form.elements;
    const from = low.value === "" ? -Infinity : Number(low.value);
    const to = high.value === "" ? Infinity : Number(high.value);
    const found = data.faces.filter((face) =>
      (split.value === "" || face.split === Number(split.value)) &&
      (gender.value === "" || face.gender === Number(gender.value)) &&
      (face.age >= from && face.age <= to));
    const by = {
      age: (a, b) => a.age - b.age,
      error: (a, b) => (b.age_error ?? -1) - (a.age_error ?? -1),
      gender_error: (a, b) => (b.gender_error ?? -1) - (a.gender_error ?? -1),
    }[order.value];
    return by ? found.sort(by) : found;
  };

  const picture = (face) => {
    if (face.image === "") return make("span", "no image");
    const image = make("img");
    image.src = address(face);
    image.alt = "";
    return image;
  };

  const tell = (face, button) => {
    for (const other of grid.querySelectorAll("[aria-pressed]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    const rows = [
      ["key", face.key], ["split", data.splits[face.split]],
      ["age", ageName(face)], ["gender", genderName(face)],
    ];
    if (data.directories.length > 1) rows.push(["data set", data.directories[face.directory]]);
    rows.push(["shard", data.shards[face.shard]], ["record in the shard", face.position],
      ["index in the split", face.record], ["CRC-32", face.crc32]);
    if (face.sha256) rows.push(["SHA-256", face.sha256]);
    if (face.said_age !== undefined) rows.push(["predicted age", face.said_age.toFixed(1)]);
    if (face.said_gender !== undefined) {
      rows.push([`predicted probability of ${data.classes[1]}`, face.said_gender.toFixed(3)]);
    }
    if (face.fault) rows.push(["fault", face.fault]);
    const list = make("dl");
    list.className = "facts";
    for (const [name, value] of rows) {
      const row = make("div");
      if (["key", "shard", "SHA-256", "fault"].includes(name)) row.className = "long";
      const shown = make("dd");
      shown.append(make("code", String(value)));
      row.append(make("dt", name), shown);
      list.append(row);
    }
    detail.replaceChildren(picture(face), list);
    detail.hidden = false;
    detail.scrollIntoView({block: "nearest"});
  };

  const draw = () => {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / pageSize));
    page = Math.min(Math.max(page, 0), pages - 1);
    const byError = form.elements.order.value;
    grid.replaceChildren(...found.slice(page * pageSize, (page + 1) * pageSize).map((face) => {
      const button = make("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      let text = `${genderName(face)}, ${ageName(face)}`;
      if (byError === "error" && face.said_age !== undefined) {
        text = `${ageName(face)}, predicted ${face.said_age.toFixed(1)}`;
      }
      button.append(picture(face), make("span", text));
      button.addEventListener("click", () => tell(face, button));
      const item = make("li");
      item.append(button);
      return item;
    }));
    count.textContent = `${found.length.toLocaleString("en")} faces, page ${page + 1} of ${pages}`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
    detail.hidden = true;
  };

  form.addEventListener("input", () => { page = 0; draw(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => { page -= 1; draw(); });
  next.addEventListener("click", () => { page += 1; draw(); });
  draw();
})();
