// Replaces the content every two seconds, without losing the place on the page.
(() => {
  const live = document.getElementById("live");
  const update = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch("/status", { cache: "no-store" });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        document.querySelector("main").replaceWith(page.querySelector("main"));
        document.title = page.title;
        live.textContent = "updated " + new Date().toLocaleTimeString();
      } catch {
        live.textContent = "no answer since " + live.textContent.replace(/^.* /, "");
      }
    }
    setTimeout(update, 2000);
  };
  live.textContent = "updated " + new Date().toLocaleTimeString();
  setTimeout(update, 2000);
})();
