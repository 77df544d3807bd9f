"""How far results of a dtype may be from float32, for one stage fed the reference's inputs.

A number is rounded to half a unit in the last place: 2^-24 in float32, 2^-12 in float16 (11 bits of
fraction), 2^-9 in bfloat16 (8 bits). A block makes some ten roundings in a row and sums hundreds of
products in another order, which costs about ten units: the relative norm of the difference is measured
at 1e-6 to 4e-6 in float32 and 3e-3 to 1e-2 in bfloat16 (bench of ENGINES section 6), and these bounds
leave a factor of three. What is multiplied with weights of 8 bits or less needs a tolerance of its own.
"""

from dovetail.parity.measures import Tolerance

TOLERANCES = {
    "float32": Tolerance(pcc=0.999_999, relative=2e-5),
    "float16": Tolerance(pcc=0.999_9, relative=5e-3),
    "bfloat16": Tolerance(pcc=0.999, relative=3e-2),
}
# Errors of a chain add up; by how much is the model's doing. Only a collapse of the whole counts.
CHAIN = {
    "float32": Tolerance(pcc=0.999_99, relative=1e-3),
    "float16": Tolerance(pcc=0.999, relative=5e-2),
    "bfloat16": Tolerance(pcc=0.98, relative=2e-1),
}
