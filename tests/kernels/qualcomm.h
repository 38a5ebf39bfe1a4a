// Stands before a kernel in OpenCL that is built with WAVE_CONSTANTS, on a device with sub-groups: Qualcomm's loads of
// constants, with a buffer in place of what its constants are kept in. There are places for the sub-groups of a small
// launch; what another one loads is NaN.
#pragma OPENCL EXTENSION cl_khr_subgroups : enable
#define cl_qcom_subgroup_constant_load 1
#define __constant __global
#define QCOM_CLK_CONST_LOAD_SYNC CLK_GLOBAL_MEM_FENCE

static uint qcom_get_physical_sub_group_id(void) {
  const size_t row = get_group_id(2) * get_num_groups(1) + get_group_id(1);
  return (row * get_num_groups(0) + get_group_id(0)) * get_num_sub_groups() + get_sub_group_id();
}

#define qcom_sub_group_constant_load8(to, from, to_first, from_first, count)                                      \
  {                                                                                                               \
    sub_group_barrier(CLK_GLOBAL_MEM_FENCE); /* nobody reads what stood there any more */                         \
    for (uint stand_in = get_sub_group_local_id(); stand_in < (count); stand_in += get_sub_group_size())          \
      (to)[(to_first) + stand_in] =                                                                               \
        qcom_get_physical_sub_group_id() < 12 ? (from)[(from_first) + stand_in] : (half8)(NAN);                   \
  }
#define qcom_sub_group_sync(fence) sub_group_barrier(fence)
