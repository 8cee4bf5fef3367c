"""What the webui runs of this extension: finds out where it is, and registers everything."""

from lib_lycoris.hosts import detect

if detect() is None:
    print("LyCORIS: this program is not known to the extension; <lyco:...> does nothing here")
else:
    from lib_lycoris.hosts import a1111_register, a1111_shelf, a1111_ui
    from lib_lycoris.hosts.a1111_painter import WebuiPainter
    from lib_lycoris.tools.inspect import inspect
    from lib_lycoris.tools.job_service import JobService
    from lib_lycoris.tools.jobs import shared
    from lib_lycoris.ui.desk import Desk
    from lib_lycoris.ui.pages import build_tab
    from lib_lycoris.ui.settings import Settings

    a1111_register.register()
    LycorisRun = a1111_register.script()  # the webui looks for classes of scripts in this module

    shelf = a1111_shelf.WebuiShelf()

    def tab():
        """Build the tab, anew at each reload of the UI."""
        desk = Desk(shelf, shared(), WebuiPainter(), Settings(shelf.data_folder() / "pages.json"), "txt2img")
        desk.use_checkpoint, desk.checkpoint_title = a1111_shelf.use_checkpoint, a1111_shelf.checkpoint_title
        return build_tab(desk)

    a1111_ui.register(lambda path: inspect(path).as_dict(), tab, JobService(shared(), shelf))
