// Replaces the content every two seconds, without losing the place on the page.
(() => {
  const live = document.getElementById("live");
  const time = () => new Date().toLocaleTimeString();
  // The tables that may be wider than the page.
  const tables = () => [...document.querySelectorAll(".generation")];
  let last = time();
  const update = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(10000) });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const main = page.querySelector("main");
        // A proxy may answer in place of a server that has stopped.
        if (!answer.ok || !main) throw new Error(answer.statusText);
        const places = tables().map((table) => table.scrollLeft);
        document.querySelector("main").replaceWith(main);
        tables().forEach((table, index) => (table.scrollLeft = places[index] ?? 0));
        document.title = page.title;
        last = time();
        live.textContent = "updated " + last;
      } catch {
        live.textContent = "no answer since " + last;
      }
    }
    setTimeout(update, 2000);
  };
  live.textContent = "updated " + last;
  setTimeout(update, 2000);
})();
