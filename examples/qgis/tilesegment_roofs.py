"""QGIS: roofs of an image, or polygons of a mask, from the Processing toolbox.

Drop this file in by Processing > Toolbox > Scripts > Add Script to Toolbox. The command `tilesegment` does
the work in a process of its own, so that it needs none of QGIS's Python: install it anywhere, and name it
under "Program", or in the environment variable TILESEGMENT_PROGRAM. A run that is cancelled goes on where
it stopped when it is started again with the same output.
"""

import json
import os
import shlex
import subprocess

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterEnum,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)


class Roofs(QgsProcessingAlgorithm):
    """One algorithm, since a script can have no more: what to do is its first parameter."""

    TASKS = ("predict", "vectorize")

    def name(self):
        return "roofs"

    def displayName(self):
        return "Roofs from an image, polygons from a mask"

    def group(self):
        return "tilesegment"

    def groupId(self):
        return "tilesegment"

    def shortHelpString(self):
        return (
            "Predicts an aerial image of any size and draws its roofs as polygons, or traces a class "
            "raster. More options of the command, such as '--tta flips', can be given as text."
        )

    def createInstance(self):
        return Roofs()

    def initAlgorithm(self, configuration=None):
        tasks = ["Predict an image", "Trace a mask"]
        program = os.environ.get("TILESEGMENT_PROGRAM", "tilesegment")
        mask = QgsProcessingParameterRasterDestination(
            "MASK", "Class mask", optional=True, createByDefault=False
        )
        for parameter in (
            QgsProcessingParameterEnum("TASK", "What to do", tasks, defaultValue=0),
            QgsProcessingParameterRasterLayer("INPUT", "Image or mask"),
            QgsProcessingParameterString("MODEL", "Model (name or file)", "roofs"),
            QgsProcessingParameterNumber("MIN_AREA", "Least area in square metres", 1, 2.0, minValue=0),
            QgsProcessingParameterString("OPTIONS", "More options", "", optional=True),
            QgsProcessingParameterString("PROGRAM", "Program", program),
            QgsProcessingParameterVectorDestination(
                "OUTPUT", "Polygons", QgsProcessing.TypeVectorPolygon, "roofs.gpkg"
            ),
            mask,
        ):
            self.addParameter(parameter)

    def processAlgorithm(self, parameters, context, feedback):
        task = self.TASKS[self.parameterAsEnum(parameters, "TASK", context)]
        source = self.parameterAsRasterLayer(parameters, "INPUT", context).source()
        output = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        mask = self.parameterAsOutputLayer(parameters, "MASK", context)
        area = self.parameterAsDouble(parameters, "MIN_AREA", context)
        command = [self.parameterAsString(parameters, "PROGRAM", context), task, source, "-o", output]
        command += ["--min-area", f"{area:g}", "--overwrite", "--log-format", "json", "-v"]
        if task == "predict":
            command += ["--model", self.parameterAsString(parameters, "MODEL", context)]
            command += ["--mask", mask] if mask else []
        command += shlex.split(self.parameterAsString(parameters, "OPTIONS", context))
        feedback.pushCommandInfo(shlex.join(command))
        self._run(command, feedback)
        return {"OUTPUT": output, **({"MASK": mask} if mask and task == "predict" else {})}

    def _run(self, command, feedback):
        # What QGIS set for its own Python and GDAL would mislead another one.
        hidden = (
            "TILESEGMENT_PROGRAM",
            "PYTHONHOME",
            "PYTHONPATH",
            "GDAL_DATA",
            "PROJ_LIB",
            "PROJ_DATA",
            "GDAL_DRIVER_PATH",
        )
        variables = {name: value for name, value in os.environ.items() if name not in hidden}
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables
            )
        except OSError as error:
            raise QgsProcessingException(
                f"{command[0]}: {error.strerror}; install it, or name it"
            ) from error
        failure, stopping = "", False
        for line in process.stderr:
            if feedback.isCanceled() and not stopping:
                stopping = True
                process.terminate()
            told = self._told(line)
            if told["level"] == "progress":
                feedback.setProgress(100 * told["done"] / max(1, told["total"]))
            elif told["level"] == "error":
                failure = told["message"]
            elif told["level"] == "warning":
                feedback.pushWarning(told["message"])
            else:
                feedback.pushInfo(told["message"])
        if process.wait() != 0 and not feedback.isCanceled():
            raise QgsProcessingException(failure or f"it ended with {process.returncode}")
        if failure:
            feedback.pushInfo(failure)

    @staticmethod
    def _told(line):
        try:
            return json.loads(line)
        except ValueError:
            return {"level": "info", "message": line.rstrip()}
